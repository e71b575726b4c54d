# Copyright 2026 qvggt_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""What the node counts and measures, shared between its threads, in bounded memory."""

from __future__ import annotations

import threading
import time
from collections import Counter
from dataclasses import dataclass

from qvggt_ros.reconstruction.frames import WindowResult
from qvggt_ros.reconstruction.timing import Percentiles, RateMeter, RollingPercentiles

# How long an error keeps the diagnostic level up after it happened.
ERROR_MEMORY_S = 10.0


@dataclass(frozen=True)
class WindowQuality:
    """The latest window's alignment, see `WindowResult`."""

    index: int
    scale: float
    residual: float
    inlier_share: float
    notes: tuple[str, ...]


@dataclass(frozen=True)
class Snapshot:
    """The statistics at one moment.

    Attributes:
        counts: events since the node was activated, by name.
        stages: per stage, milliseconds a window.
        input_rate_hz, output_rate_hz: images received and poses published, a second.
        quality: of the latest window, None before the first.
        last_error: text of an error within ERROR_MEMORY_S, or empty.

    """

    counts: dict[str, int]
    stages: dict[str, Percentiles]
    input_rate_hz: float
    output_rate_hz: float
    quality: WindowQuality | None
    last_error: str


class NodeStatistics:
    """Counters, rates and rolling percentiles behind one lock."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self.clear()

    def clear(self) -> None:
        """Start from zero."""
        with self._lock:
            self._counts: Counter[str] = Counter()
            self._stages: dict[str, RollingPercentiles] = {}
            self._input, self._output = RateMeter(), RateMeter()
            self._quality: WindowQuality | None = None
            self._error, self._error_s = '', 0.0

    def count(self, name: str, by: int = 1) -> None:
        """Count an event."""
        with self._lock:
            self._counts[name] += by

    def image_received(self, now_s: float) -> None:
        """Count an image that came in."""
        with self._lock:
            self._counts['frames_received'] += 1
            self._input.tick(now_s)

    def time(self, stage: str, milliseconds: float) -> None:
        """Take in one duration."""
        with self._lock:
            self._stages.setdefault(stage, RollingPercentiles()).add(milliseconds)

    def window_published(self, result: WindowResult, now_s: float) -> None:
        """Take in a window that went out."""
        for stage, milliseconds in result.stage_ms.items():
            self.time(stage, milliseconds)
        self.time('total', sum(result.stage_ms.values()))
        with self._lock:
            self._counts['windows'] += 1
            self._counts['poses'] += len(result.poses)
            self._counts['windows_with_notes'] += bool(result.notes)
            for _ in result.poses:
                self._output.tick(now_s)
            self._quality = WindowQuality(
                result.index, result.scale, result.residual, result.inlier_share, result.notes
            )

    def error(self, text: str) -> None:
        """Count an error and keep its text for the diagnostics."""
        with self._lock:
            self._counts['errors'] += 1
            self._error, self._error_s = text, time.monotonic()

    def snapshot(self, now_s: float) -> Snapshot:
        """Return everything at this moment (monotonic clock)."""
        with self._lock:
            recent = bool(self._error) and now_s - self._error_s < ERROR_MEMORY_S
            stages = {name: rolling.percentiles() for name, rolling in self._stages.items()}
            return Snapshot(
                counts=dict(self._counts),
                stages={name: p for name, p in stages.items() if p is not None},
                input_rate_hz=self._input.rate_hz(now_s),
                output_rate_hz=self._output.rate_hz(now_s),
                quality=self._quality,
                last_error=self._error if recent else '',
            )
