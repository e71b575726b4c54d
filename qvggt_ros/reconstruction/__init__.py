# Copyright 2026 qvggt_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Frames in, poses and a map out: preprocessing, windows, alignment, voxels. No ROS, no torch."""
