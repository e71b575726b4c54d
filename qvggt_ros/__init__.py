# Copyright 2026 qvggt_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""VGGT quantised to 8 and 4 bits, as engines inside a ROS 2 node."""

__version__ = '0.1.0'
