# Copyright 2026 qvggt_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""The sliding window's bookkeeping: which frames meet, which are new, which tie to the map."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from qvggt_ros.errors import UsageError
from qvggt_ros.reconstruction.geometry import Float64Array


@dataclass(frozen=True)
class AnchorSamples:
    """What the map knows of one frame at the sample pixels; confidence 0 = not valid.

    Attributes:
        points: [n, 3] in the map.
        depth: [n] in map units.
        confidence: [n].

    """

    points: NDArray[np.float32]
    depth: NDArray[np.float32]
    confidence: NDArray[np.float32]


@dataclass
class WindowFrame:
    """A frame while it is in the window.

    Attributes:
        stamp_ns, frame_id: the input's, untouched.
        engine_image: [H, W, 3] uint8 RGB, for the points' colours.
        tokens: the engine's handle: a frame is encoded once, however many windows it is in.
        calibrated_intrinsics: [3, 3] of the engine's image, None where the network's are used.
        map_from_camera: [4, 4] once placed; it never moves afterwards.
        anchor: set once placed.

    """

    stamp_ns: int
    frame_id: str
    engine_image: NDArray[np.uint8]
    tokens: Any
    calibrated_intrinsics: Float64Array | None = None
    map_from_camera: Float64Array | None = None
    anchor: AnchorSamples | None = None


class SlidingWindow:
    """The latest `size` frames; due when it is first full, then every `stride` new frames."""

    def __init__(self, size: int, stride: int) -> None:
        if size < 2:
            raise UsageError(f'window of {size} frames: at least 2, so that windows overlap')
        if not 1 <= stride < size:
            raise UsageError(
                f'stride {stride} with a window of {size}: must be 1 to {size - 1}, so that '
                'windows overlap'
            )
        self.size = size
        self.stride = stride
        self._frames: deque[WindowFrame] = deque(maxlen=size)
        self._pending = 0

    @property
    def pending(self) -> int:
        """How many frames await their pose."""
        return self._pending

    @property
    def frames(self) -> Sequence[WindowFrame]:
        """The frames, oldest first."""
        return self._frames

    def add(self, frame: WindowFrame) -> bool:
        """Take in a frame; return whether a window is due."""
        if self._pending == self.size:
            raise UsageError('a due window was not taken')
        self._frames.append(frame)
        self._pending += 1
        started = len(self._frames) > self._pending
        return self._pending >= (self.stride if started else self.size)

    def take(self) -> tuple[list[WindowFrame], int]:
        """Return the window's frames and how many of them, the last ones, are new."""
        new_count = self._pending
        self._pending = 0
        return list(self._frames), new_count

    def clear(self) -> None:
        """Drop all frames."""
        self._frames.clear()
        self._pending = 0


def choose_anchors(shared_count: int, anchor_count: int) -> list[int]:
    """Choose which of the shared frames (0 oldest) tie a window to the map.

    Always the newest, the one nearest to the new frames; then spread evenly towards the oldest,
    because a wider base holds the rotation better.
    """
    if shared_count < 1:
        return []
    count = min(anchor_count, shared_count)
    if count == 1:
        return [shared_count - 1]
    return sorted({round(i) for i in np.linspace(0, shared_count - 1, count)})
