# Copyright 2026 qvggt_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Pools with noise put in on purpose, to see what a filter drops."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
from numpy.typing import NDArray

from qvggt_ros.errors import UsageError
from qvggt_ros.quantization.calibration_sources import UInt8Array, WindowPool

BLACK_NOISE = 4  # a closed lens gives levels below this
CLIPPED_SHARE = (0.75, 0.95)  # of a saturated frame's pixels that are white


class NoisyPool:
    """A pool some of whose windows are replaced by noise.

    Attributes:
        name: of the pool and its noise.
        kinds: which noise each noisy window is, by its index; see `NOISE_KINDS`.

    """

    def __init__(self, pool: WindowPool, share: float, seed: int) -> None:
        if not 0.0 <= share <= 1.0:
            raise UsageError(f'noise share {share}: must lie in 0 .. 1')
        self.name = f'{pool.name}, {share:.0%} noise of seed {seed}'
        self._pool, self._seed = pool, seed
        rng = np.random.default_rng(seed)
        chosen = rng.permutation(len(pool))[: round(share * len(pool))]
        names = list(NOISE_KINDS)
        self.kinds: Mapping[int, str] = {
            int(index): names[place % len(names)] for place, index in enumerate(chosen)
        }

    @property
    def noisy(self) -> frozenset[int]:
        """Return the indices of the windows that are noise."""
        return frozenset(self.kinds)

    def __len__(self) -> int:
        return len(self._pool)

    def window(self, index: int) -> UInt8Array:
        """Return a window [S, H, W, 3], or the noise in its place; the same at every call."""
        if index not in self.kinds:
            return self._pool.window(index)
        rng = np.random.default_rng((self._seed, index))
        return NOISE_KINDS[self.kinds[index]](self, index, rng)

    def pure(self, index: int) -> UInt8Array:
        """Return the window that was there before the noise."""
        return self._pool.window(index)

    def clean_before(self, index: int) -> list[int]:
        """Return the windows before this one that are no noise."""
        return [i for i in range(index) if i not in self.kinds]


def with_noise(pool: WindowPool, share: float, seed: int) -> NoisyPool:
    """Replace a share of a pool's windows by noise, each kind about as often.

    Args:
        pool: clean windows.
        share: of the windows, 0 .. 1, rounded to whole windows.
        seed: which windows, and the noise itself.

    Returns:
        A pool with `noisy`, the indices of the noise, and `kinds`, what each is.

    Raises:
        UsageError: the share is outside 0 .. 1.

    """
    return NoisyPool(pool, share, seed)


def _black(pool: NoisyPool, index: int, rng: np.random.Generator) -> UInt8Array:
    """Close the lens: nothing is left but the sensor's own noise."""
    return rng.integers(0, BLACK_NOISE, pool.pure(index).shape, dtype=np.uint8)


def _static(pool: NoisyPool, index: int, rng: np.random.Generator) -> UInt8Array:
    """Lose the signal: every pixel for itself; half of the windows grey, half in colour."""
    noise = rng.integers(0, 256, pool.pure(index).shape, dtype=np.uint8)
    return np.repeat(noise[..., :1], 3, axis=-1) if rng.random() < 0.5 else noise


def _frozen(pool: NoisyPool, index: int, rng: np.random.Generator) -> UInt8Array:
    """Send one picture again and again, as a hung driver does."""
    window = pool.pure(index)
    return np.repeat(window[:1], len(window), axis=0)


def _copy(pool: NoisyPool, index: int, rng: np.random.Generator) -> UInt8Array:
    """Repeat a window; the copy is the one that comes later in the pool."""
    originals = pool.clean_before(index)
    if not originals:
        return _black(pool, index, rng)
    return pool.pure(int(rng.choice(originals)))


def _saturated(pool: NoisyPool, index: int, rng: np.random.Generator) -> UInt8Array:
    """Expose far too long: most pixels are white."""
    window = pool.pure(index).astype(np.float64)
    dark = np.quantile(window.min(axis=-1), 1.0 - rng.uniform(*CLIPPED_SHARE))
    return np.clip(window * (255.0 / max(dark, 1.0)), 0, 255).astype(np.uint8)


def _shuffled(pool: NoisyPool, index: int, rng: np.random.Generator) -> UInt8Array:
    """Put frames together that do not belong together: each from another window.

    In a recording of one place they may well belong together.
    """
    window = pool.pure(index)
    others = np.delete(np.arange(len(pool)), index)
    if not len(others):
        return _static(pool, index, rng)
    sources = rng.choice(others, len(window), replace=len(others) < len(window))
    times = rng.integers(0, len(window), len(window))
    frames = [pool.pure(int(s))[t] for s, t in zip(sources, times, strict=True)]
    return np.stack(frames)


MakeNoise = Callable[[NoisyPool, int, np.random.Generator], NDArray[np.uint8]]
NOISE_KINDS: dict[str, MakeNoise] = {
    'black': _black,
    'static': _static,
    'frozen': _frozen,
    'copy': _copy,
    'saturated': _saturated,
    'shuffled': _shuffled,
}
