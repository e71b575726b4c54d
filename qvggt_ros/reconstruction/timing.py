# Copyright 2026 qvggt_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Stage timing and rolling percentiles in bounded memory."""

from __future__ import annotations

import math
import time
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

PERCENTILES = (50, 95, 99)


@dataclass(frozen=True)
class Percentiles:
    """Nearest-rank percentiles of the latest values, and how many there have been in all."""

    p50: float
    p95: float
    p99: float
    count: int


class RollingPercentiles:
    """Percentiles over the latest `capacity` values."""

    def __init__(self, capacity: int = 512) -> None:
        self._values: deque[float] = deque(maxlen=capacity)
        self._count = 0

    def add(self, value: float) -> None:
        """Take one value in."""
        self._values.append(value)
        self._count += 1

    def percentiles(self) -> Percentiles | None:
        """Return the percentiles, None before the first value."""
        if not self._values:
            return None
        # Nearest rank: a percentile is one of the values that occurred, never between two.
        ordered = sorted(self._values)
        p50, p95, p99 = (ordered[math.ceil(len(ordered) * p / 100) - 1] for p in PERCENTILES)
        return Percentiles(p50, p95, p99, self._count)

    def clear(self) -> None:
        """Forget everything."""
        self._values.clear()
        self._count = 0


class StageTimer:
    """Adds up wall time per stage, milliseconds."""

    def __init__(self) -> None:
        self.milliseconds: dict[str, float] = {}

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Time the body and add it to the stage."""
        start = time.perf_counter()
        try:
            yield
        finally:
            elapsed_ms = (time.perf_counter() - start) * 1e3
            self.milliseconds[name] = self.milliseconds.get(name, 0.0) + elapsed_ms

    def take(self) -> dict[str, float]:
        """Return the times since the last call and start again from zero."""
        taken = self.milliseconds
        self.milliseconds = {}
        return taken


class RateMeter:
    """Events per second over the latest `horizon_s` seconds."""

    def __init__(self, horizon_s: float = 5.0, capacity: int = 1024) -> None:
        self._horizon_s = horizon_s
        self._times_s: deque[float] = deque(maxlen=capacity)

    def tick(self, now_s: float) -> None:
        """Take in one event at a monotonic time."""
        self._times_s.append(now_s)

    def rate_hz(self, now_s: float) -> float:
        """Return the rate up to a monotonic time: 0 when nothing came within the horizon."""
        while self._times_s and self._times_s[0] < now_s - self._horizon_s:
            self._times_s.popleft()
        if len(self._times_s) < 2:
            return len(self._times_s) / self._horizon_s
        return (len(self._times_s) - 1) / max(now_s - self._times_s[0], 1e-9)
