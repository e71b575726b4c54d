# Copyright 2026 qvggt_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""What an interrupt looks like to a program that waits in rclpy."""

from __future__ import annotations

import rclpy
from rclpy.executors import ExternalShutdownException


def is_interrupt(error: BaseException) -> bool:
    """Tell whether an error only says that the program is to end.

    An interrupt that comes between two waits invalidates the context under rclpy's feet, which it
    reports as an error of its own kind.
    """
    return isinstance(error, (KeyboardInterrupt, ExternalShutdownException)) or not rclpy.ok()
