# Copyright 2026 qvggt_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Noise put into a pool is what it says, where it says, and the rest is untouched."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest

from qvggt_ros.errors import UsageError
from qvggt_ros.export.golden import noise_windows
from qvggt_ros.quantization.noise_stress import NOISE_KINDS, NoisyPool, with_noise


class Pool:
    """Drifting coloured noise, window by window."""

    name = 'drift'

    def __init__(self, count: int) -> None:
        self._count = count

    def __len__(self) -> int:
        return self._count

    def window(self, index: int) -> np.ndarray:
        return noise_windows(1, 3, (28, 42), seed=index)[0]


def first_of(pool: NoisyPool, kind: str) -> tuple[np.ndarray, np.ndarray]:
    """Return the first window of a kind, and what it was before."""
    index = min(i for i, k in pool.kinds.items() if k == kind)
    return pool.window(index), pool.pure(index)


@pytest.fixture(scope='module')
def pool() -> NoisyPool:
    return with_noise(Pool(60), 0.5, seed=1)


def test_a_share_of_the_windows_is_noise_of_every_kind(pool: NoisyPool) -> None:
    assert (len(pool), len(pool.noisy)) == (60, 30)
    assert set(Counter(pool.kinds.values()).values()) == {5}
    assert set(pool.kinds.values()) == set(NOISE_KINDS)
    for index in range(60):
        window = pool.window(index)
        assert (window.shape, window.dtype) == ((3, 28, 42, 3), np.uint8)
        assert np.array_equal(window, pool.pure(index)) == (index not in pool.noisy)
        assert np.array_equal(window, pool.window(index))


def test_the_seed_decides(pool: NoisyPool) -> None:
    again, other = with_noise(Pool(60), 0.5, seed=1), with_noise(Pool(60), 0.5, seed=2)
    assert again.kinds == pool.kinds != other.kinds
    assert again.name == pool.name != other.name
    index = min(pool.noisy)
    assert np.array_equal(again.window(index), pool.window(index))


def test_each_kind_is_what_it_says(pool: NoisyPool) -> None:
    assert first_of(pool, 'black')[0].max() < 4
    static, _ = first_of(pool, 'static')
    assert np.abs(np.diff(static[..., 0].astype(int), axis=2)).mean() > 70  # 85 if independent
    frozen, pure = first_of(pool, 'frozen')
    assert all(np.array_equal(frame, pure[0]) for frame in frozen)
    saturated, pure = first_of(pool, 'saturated')
    assert (saturated.min(axis=-1) == 255).mean() > 0.6
    assert (saturated >= pure).all()


def test_a_copy_is_that_of_an_earlier_clean_window(pool: NoisyPool) -> None:
    for index in (i for i, kind in pool.kinds.items() if kind == 'copy'):
        copy = pool.window(index)
        sources = [i for i in range(60) if np.array_equal(copy, pool.pure(i))]
        assert sources == [i for i in sources if i < index and i not in pool.noisy]
        assert sources or (index == 0 and copy.max() < 4)


def test_shuffled_frames_come_from_different_windows(pool: NoisyPool) -> None:
    window, _ = first_of(pool, 'shuffled')
    sources = [
        i for frame in window for i in range(60) if (frame == pool.pure(i)).all((1, 2, 3)).any()
    ]
    assert len(set(sources)) == 3


def test_the_ends() -> None:
    assert with_noise(Pool(7), 0.0, 0).noisy == frozenset()
    everything = with_noise(Pool(7), 1.0, 0)
    assert everything.noisy == frozenset(range(7))
    assert [everything.window(i).shape for i in range(7)] == [(3, 28, 42, 3)] * 7
    assert with_noise(Pool(1), 1.0, 5).window(0).shape == (3, 28, 42, 3)


@pytest.mark.parametrize('share', [-0.1, 1.1, float('nan')])
def test_the_share_is_checked(share: float) -> None:
    with pytest.raises(UsageError, match='noise share'):
        with_noise(Pool(3), share, 0)
