# Copyright 2026 qvggt_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Accuracy, trajectories, recordings and the demo. Offline."""
