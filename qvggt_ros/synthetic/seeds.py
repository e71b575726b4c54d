# Copyright 2026 qvggt_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Seeds: the split into training and test scenes, and a scene's block of random numbers.

A scene's seed is a signed 64-bit integer. Everything random about it comes from one block of
float64 uniforms of PCG64, whose bits do not depend on the machine, and reaches the pixels through
operations that IEEE 754 rounds exactly (+ - * / sqrt floor abs min max compare, integer hashing).
That is why the same seed gives the same bytes everywhere, whatever batch it is rendered in.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from qvggt_ros.errors import UsageError

FloatArray = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.int64]
BoolArray = npt.NDArray[np.bool_]

TEST_SEEDS_FROM = 10_000
TRAINING_SCENES = 2**62


def is_test_seed(seed: int) -> bool:
    """Tell whether a scene is for tests only: every seed from 10000 up is."""
    return seed >= TEST_SEEDS_FROM


def training_seeds(first: int, count: int) -> IntArray:
    """Return the training scenes number first .. first + count - 1: the negative seeds.

    Seeds 0 .. 9999 belong to neither side: validation while training, examples, demos.

    Raises:
        UsageError: the numbers leave 0 .. 2**62.

    """
    if first < 0 or count < 0 or first + count > TRAINING_SCENES:
        raise UsageError(
            f'training scenes {first} .. {first + count}: must lie in 0 .. {TRAINING_SCENES}'
        )
    return -1 - (first + np.arange(count, dtype=np.int64))


def uniform_blocks(seeds: Sequence[int] | IntArray, count: int, stream: int) -> FloatArray:
    """Return [len(seeds), count] uniforms in [0, 1); streams of one seed are independent."""
    blocks = np.empty((len(seeds), count))
    for row, seed in enumerate(seeds):
        # SeedSequence takes no negative words, so the sign travels as a word of its own.
        entropy = (stream, int(int(seed) < 0), abs(int(seed)))
        np.random.default_rng(entropy).random(out=blocks[row])
    return blocks


class Draws:
    """Takes named shapes, in a fixed order, from the uniform blocks of a batch of scenes."""

    def __init__(self, seeds: Sequence[int] | IntArray, count: int, stream: int):
        self._blocks = uniform_blocks(seeds, count, stream)
        self._used = 0

    def unit(self, *shape: int) -> FloatArray:
        """Return uniforms in [0, 1), [B, *shape]."""
        count = 1
        for extent in shape:
            count *= extent
        start, self._used = self._used, self._used + count
        if self._used > self._blocks.shape[1]:
            raise ValueError(f'a block of {self._blocks.shape[1]} uniforms is too small')
        return self._blocks[:, start : self._used].reshape(-1, *shape)

    def uniform(self, low: float, high: float, *shape: int) -> FloatArray:
        """Return uniforms in [low, high), [B, *shape]."""
        return low + (high - low) * self.unit(*shape)

    def chance(self, probability: float, *shape: int) -> BoolArray:
        """Return True with the given probability, [B, *shape]."""
        return self.unit(*shape) < probability

    def index(self, count: int, *shape: int) -> IntArray:
        """Return integers in 0 .. count - 1, [B, *shape]."""
        return (self.unit(*shape) * count).astype(np.int64)

    def weighted(self, weights: Sequence[float], *shape: int) -> IntArray:
        """Return indices drawn with the given weights, [B, *shape]."""
        total = sum(weights)
        draw = self.unit(*shape)
        chosen = np.zeros(draw.shape, dtype=np.int64)
        reached = 0.0
        for weight in weights[:-1]:
            reached += weight / total
            chosen += draw >= reached
        return chosen

    def direction(self, *shape: int) -> tuple[FloatArray, FloatArray]:
        """Return cosine and sine of a heading anywhere on the circle, each [B, *shape]."""
        cosine, sine = rotation(self.uniform(-1.0, 1.0, *shape))
        sign = np.where(self.chance(0.5, *shape), 1.0, -1.0)
        return cosine * sign, sine * sign


def rotation(half_tangent: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Return cosine and sine of the angle whose half has the given tangent (exact operations)."""
    square = half_tangent * half_tangent
    return (1.0 - square) / (1.0 + square), 2.0 * half_tangent / (1.0 + square)


def scene_hash(seeds: Sequence[int] | IntArray) -> npt.NDArray[np.int32]:
    """Return a 32-bit word per scene that seeds the hashes of textures and sensor noise."""
    words = np.asarray(uniform_blocks(seeds, 1, stream=9)[:, 0] * 2.0**32, dtype=np.uint64)
    return words.astype(np.uint32).view(np.int32)
