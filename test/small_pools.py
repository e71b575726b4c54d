# Copyright 2026 qvggt_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Windows to choose from that cost nothing, and a network that looks at them."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from small_networks import SMALL, lively

from qvggt_ros.export.golden import noise_windows
from qvggt_ros.quantization.nfds import CalibrationSet, NfdsConfig
from qvggt_ros.vggt import VGGT

FRAMES, SIZE = 4, (42, 56)
CONFIG = NfdsConfig(candidates=40, samples=8, clusters=4)


class Pool:
    """Drifting coloured noise; `replaced` stands in for some windows."""

    name = 'drift'

    def __init__(self, count: int, replaced: dict[int, np.ndarray] | None = None) -> None:
        self._count = count
        self.replaced = replaced or {}
        self.asked: list[int] = []

    def __len__(self) -> int:
        return self._count

    def window(self, index: int) -> np.ndarray:
        self.asked.append(index)
        if index in self.replaced:
            return self.replaced[index]
        return drift(index)


@lru_cache(maxsize=128)
def drift(seed: int) -> np.ndarray:
    return noise_windows(1, FRAMES, SIZE, seed)[0]


@lru_cache(maxsize=1)
def network() -> VGGT:
    return lively(SMALL)


def same(a: CalibrationSet, b: CalibrationSet) -> bool:
    return a.digest == b.digest and a.report == b.report and np.array_equal(a.windows, b.windows)
