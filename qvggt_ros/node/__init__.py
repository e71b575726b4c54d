# Copyright 2026 qvggt_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""The ROS 2 side: lifecycle node, message conversion, diagnostics, bag player."""
