# Copyright 2026 qvggt_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Time that goes on whatever the node's own clock does.

With use_sim_time that clock stands still until somebody publishes /clock, and timers on it never
fire: a node that waits there says nothing. What must happen in any case is timed by the steady
clock.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from rclpy.clock import Clock, ClockType
from rclpy.node import Node


def steady_timer(node: Node, period_s: float, callback: Callable[[], None]) -> Any:
    """Call back every `period_s` of real time."""
    return node.create_timer(period_s, callback, clock=Clock(clock_type=ClockType.STEADY_TIME))


def missing_clock(node: Node) -> str:
    """Return what is wrong where the node waits for a /clock that nobody publishes, else ''."""
    if not node.get_parameter('use_sim_time').value or node.get_clock().now().nanoseconds:
        return ''
    return (
        'use_sim_time is set and no time has come on /clock: ages are not known; play the bag '
        'with --clock, or leave use_sim_time out'
    )
