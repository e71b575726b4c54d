# Copyright 2026 qvggt_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""The split into training and test scenes, and the random numbers of a scene."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from qvggt_ros.errors import UsageError
from qvggt_ros.synthetic.seeds import (
    TEST_SEEDS_FROM,
    TRAINING_SCENES,
    Draws,
    is_test_seed,
    rotation,
    scene_hash,
    training_seeds,
    uniform_blocks,
)

PINNED_UNIFORMS = ['0x1.8e751b52001f8p-2', '0x1.1aca99a3f48a8p-1']


def test_test_seeds_begin_at_ten_thousand() -> None:
    assert TEST_SEEDS_FROM == 10_000
    assert is_test_seed(10_000)
    assert is_test_seed(2**62)
    assert not is_test_seed(9_999)
    assert not is_test_seed(-10_000)


@given(st.integers(0, TRAINING_SCENES - 100), st.integers(0, 100))
def test_training_never_yields_a_test_seed(first: int, count: int) -> None:
    seeds = training_seeds(first, count)
    assert len(set(seeds.tolist())) == count
    assert not any(is_test_seed(int(seed)) for seed in seeds)
    # Validation and examples have the seeds in between for themselves.
    assert all(seed < 0 for seed in seeds)


def test_training_scenes_are_many_and_bounded() -> None:
    assert TRAINING_SCENES >= 2**40
    assert training_seeds(TRAINING_SCENES - 1, 1).tolist() == [-TRAINING_SCENES]
    for first, count in ((-1, 1), (0, -1), (TRAINING_SCENES, 1)):
        with pytest.raises(UsageError, match='training scenes'):
            training_seeds(first, count)


def test_uniforms_are_numpys_pcg64_to_the_bit() -> None:
    block = uniform_blocks([10_000], 2, stream=1)[0]
    assert [value.hex() for value in block] == [
        float(value).hex() for value in np.random.default_rng((1, 0, 10_000)).random(2)
    ]
    assert [value.hex() for value in block] == PINNED_UNIFORMS


def test_a_seed_and_its_negative_and_other_streams_differ() -> None:
    rows = [uniform_blocks([s], 8, stream=k)[0] for s, k in ((5, 1), (-5, 1), (5, 2))]
    assert not np.intersect1d(rows[0], rows[1]).size
    assert not np.intersect1d(rows[0], rows[2]).size


def test_draws_do_not_depend_on_the_batch() -> None:
    alone, together = Draws([7], 40, stream=1), Draws([3, 7, -9], 40, stream=1)
    for name, arguments in (('unit', (3,)), ('weighted', ((1.0, 2.0, 3.0), 4)), ('index', (5, 4))):
        first = getattr(alone, name)(*arguments)
        second = getattr(together, name)(*arguments)
        assert np.array_equal(first[0], second[1])


def test_draws_refuse_to_run_out() -> None:
    draws = Draws([1], 4, stream=1)
    draws.unit(3)
    with pytest.raises(ValueError, match='too small'):
        draws.unit(2)


def test_weighted_follows_its_weights() -> None:
    chosen = Draws([11], 20_000, stream=1).weighted((1.0, 0.0, 3.0), 20_000)
    shares = np.bincount(chosen.ravel(), minlength=3) / chosen.size
    assert shares[1] == 0.0
    assert shares == pytest.approx([0.25, 0.0, 0.75], abs=0.02)


@given(st.floats(-1e6, 1e6))
def test_rotation_by_half_tangent(half_tangent: float) -> None:
    cosine, sine = rotation(np.array(half_tangent))
    angle = 2.0 * np.arctan(half_tangent)
    assert cosine == pytest.approx(np.cos(angle), abs=1e-12)
    assert sine == pytest.approx(np.sin(angle), abs=1e-12)


def test_headings_cover_the_circle() -> None:
    cosine, sine = Draws([2], 8_000, stream=1).direction(4_000)
    assert np.allclose(cosine * cosine + sine * sine, 1.0, atol=1e-12)
    octants = np.floor(np.arctan2(sine, cosine) / (np.pi / 4)).astype(int).ravel() + 4
    assert np.bincount(octants, minlength=8)[:8].min() > 300


def test_scene_hashes_use_all_bits() -> None:
    words = scene_hash(np.arange(2_000))
    assert words.dtype == np.int32
    assert len(np.unique(words)) == 2_000
    bits = (words.view(np.uint32)[:, None] >> np.arange(32, dtype=np.uint32)) & 1
    assert np.abs(bits.mean(axis=0) - 0.5).max() < 0.06
