# Copyright 2026 qvggt_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Noise is dropped and said why, what is left is drawn diversely, and the seed decides."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from small_pools import CONFIG, FRAMES, SIZE, Pool, drift, network, same

from qvggt_ros.errors import CalibrationError
from qvggt_ros.quantization import nfds, nfds_statistics
from qvggt_ros.quantization.calibration_sources import WindowPool, open_pool
from qvggt_ros.quantization.nfds import (
    CalibrationSet,
    NfdsConfig,
    cluster,
    draw_evenly,
    noise_scores,
    random_set,
    select,
)
from qvggt_ros.quantization.noise_stress import with_noise
from qvggt_ros.vggt import VGGT, load_model

DEMO_SIZE = (84, 112)
DEMO = Path('engines/demo/model.safetensors')


def rates(found: CalibrationSet, noisy: frozenset[int], count: int) -> tuple[float, float]:
    """Return the share of noise dropped and the share of clean windows kept."""
    assert found.report is not None
    dropped = set(found.report.dropped)
    return len(dropped & noisy) / len(noisy), 1 - len(dropped - noisy) / (count - len(noisy))


def test_a_set_is_windows_of_the_pool_and_a_report_of_each_candidate() -> None:
    pool = Pool(40)
    found = select(network(), pool, CONFIG)
    report = found.report
    assert report is not None
    assert found.windows.shape == (8, FRAMES, *SIZE, 3)
    assert found.windows.dtype == np.uint8
    assert (np.diff(found.indices) > 0).all()
    for window, index in zip(found.windows, found.indices.tolist(), strict=True):
        assert np.array_equal(window, pool.window(index))
        assert index in report.kept
    assert sorted([*report.kept, *report.dropped]) == list(range(40))
    assert (sum(report.cluster_sizes), sum(report.drawn)) == (len(report.kept), 8)
    assert (report.pool, report.candidates, report.notes) == ('drift', 40, [])
    assert json.loads(json.dumps(report.to_dict()))['kept'] == report.kept
    assert len(found.digest) == 64


def test_the_same_seed_gives_the_same_set() -> None:
    first = select(network(), Pool(40), CONFIG)
    assert same(first, select(network(), Pool(40), CONFIG))
    other = select(network(), Pool(40), NfdsConfig(40, 8, clusters=4, seed=1))
    assert other.digest != first.digest


def test_few_windows_of_a_clean_pool_are_dropped() -> None:
    report = select(network(), Pool(60), NfdsConfig(samples=8)).report
    assert report is not None
    assert len(report.dropped) <= 3


@pytest.mark.parametrize('share', [0.2, 0.7])
def test_noise_is_dropped_and_clean_windows_are_kept(share: float) -> None:
    noisy = with_noise(Pool(60), share, seed=0)
    found = select(network(), noisy, NfdsConfig(samples=8))
    dropped, kept = rates(found, noisy.noisy, 60)
    assert dropped >= 0.95
    assert kept >= 0.85
    assert not set(found.indices.tolist()) & noisy.noisy
    assert found.report is not None
    assert all(found.report.dropped.values())


def test_a_copy_names_its_original() -> None:
    pool = Pool(20, {11: drift(4), 15: drift(4) // 2 * 2})
    report = select(network(), pool, CONFIG).report
    assert report is not None
    assert report.dropped == {11: 'copy of window 4', 15: 'copy of window 4'}


def test_activations_alone_drop_what_is_unlike_the_rest(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(nfds_statistics, 'picture_fault', lambda window, least: '')
    dark = {i: np.full_like(drift(0), i) for i in (3, 17, 30)}
    found = select(network(), Pool(40, dark), CONFIG)
    assert found.report is not None
    assert set(dark) <= set(found.report.dropped)
    assert 'noise score' in found.report.dropped[3]
    assert not set(found.indices.tolist()) & set(dark)
    assert found.report.scores[3] > found.report.score_limit


def test_scores_are_those_of_the_paper_with_its_moments() -> None:
    table = np.array([[1.0, 10.0], [3.0, 10.0], [5.0, 40.0]])
    z = (table - table.mean(0)) / table.std(0)
    assert np.allclose(noise_scores(table, robust=False), np.sqrt((z**2).sum(1)))
    apart = np.array([[2.0, 0.0], [0.0, 0.0], [2.0, 30.0]])
    table[1, 1] = 11.0  # medians 3 and 11, MAD 2 and 1
    apart[:, 1] = (1.0, 0.0, 29.0)
    expected = np.sqrt(((apart / (1.4826 * np.array([2.0, 1.0]))) ** 2).sum(1))
    assert np.allclose(noise_scores(table), expected)


def test_noise_does_not_hide_behind_its_own_spread() -> None:
    rng = np.random.default_rng(0)
    table = rng.normal(size=(100, 6))
    table[:20] += 30.0
    assert noise_scores(table)[:20].min() > 10 * noise_scores(table)[20:].max()
    assert noise_scores(table, robust=False)[:20].max() < 6
    assert np.isfinite(noise_scores(np.ones((5, 3)))).all()


def test_the_kept_share_bounds_what_scores_can_drop() -> None:
    scores = np.concatenate([np.full(55, 1.0), np.full(45, 100.0)])
    for share in (0.5, 0.7, 1.0):
        bad, _ = nfds._far_off(scores, NfdsConfig(keep_share=share))
        assert (~bad).mean() >= share
    bad, _ = nfds._far_off(scores, NfdsConfig(keep_share=0.5))
    assert bad.tolist() == [False] * 55 + [True] * 45


def test_clusters_are_found_again() -> None:
    rng = np.random.default_rng(1)
    truth = np.repeat(np.arange(5), 20)
    points = rng.normal(size=(5, 3))[truth] * 10 + rng.normal(size=(100, 3)) * 0.1
    labels = cluster(points, 5, seed=0)
    assert len({(a, b) for a, b in zip(truth.tolist(), labels.tolist(), strict=True)}) == 5
    assert np.array_equal(labels, cluster(points, 5, seed=0))


def test_clusters_are_never_more_than_distinct_points() -> None:
    assert cluster(np.ones((6, 3)), 4, 0).tolist() == [0] * 6
    assert cluster(np.ones((6, 0)), 4, 0).tolist() == [0] * 6  # windows of one frame
    assert set(cluster(np.array([[0.0], [0.0], [1.0]]), 3, 0).tolist()) == {0, 1}


@given(st.lists(st.integers(1, 30), min_size=1, max_size=8), st.integers(1, 60), st.integers(0, 5))
def test_draws_are_even_and_shortfall_goes_to_the_others(
    sizes: list[int], count: int, seed: int
) -> None:
    labels = np.repeat(np.arange(len(sizes)), sizes)
    chosen = draw_evenly(labels, count, seed)
    assert len(set(chosen.tolist())) == len(chosen) == min(count, sum(sizes))
    assert (np.diff(chosen) > 0).all()
    drawn = np.bincount(labels[chosen], minlength=len(sizes))
    for size, got in zip(sizes, drawn.tolist(), strict=True):
        assert got == size or got >= drawn.max() - 1


def test_no_usable_window_is_an_error_that_says_why() -> None:
    black = {i: np.zeros_like(drift(0)) for i in range(4)}
    with pytest.raises(CalibrationError, match=r'no usable window .* 4 x frame n is black'):
        select(network(), Pool(4, black), CONFIG)
    with pytest.raises(CalibrationError, match='holds no windows'):
        select(network(), Pool(0), CONFIG)


def test_too_few_windows_are_noted() -> None:
    found = select(network(), Pool(5), CONFIG)
    assert found.report is not None
    assert len(found.windows) == len(found.report.kept) < 8
    assert found.report.notes == [f'{len(found.windows)} windows are usable, 8 were asked for']


def test_a_long_pool_is_looked_at_evenly_and_one_window_at_a_time() -> None:
    pool = Pool(100)
    found = select(network(), pool, NfdsConfig(candidates=10, samples=3, clusters=2))
    assert pool.asked == [0, 11, 22, 33, 44, 55, 66, 77, 88, 99, *found.indices.tolist()]


def test_a_random_set_is_seeded() -> None:
    found = random_set(Pool(30), 8, seed=1)
    assert found.report is None
    assert len(found.indices) == 8
    assert (np.diff(found.indices) > 0).all()
    assert found.digest == random_set(Pool(30), 8, seed=1).digest
    assert found.digest != random_set(Pool(30), 8, seed=2).digest
    assert len(random_set(Pool(3), 8, seed=1).indices) == 3


def check_five_seeds(model: VGGT, pool_of: Callable[[int], WindowPool], windows: int) -> None:
    for seed in range(5):
        noisy = with_noise(pool_of(seed), 0.2, seed)
        dropped, kept = rates(select(model, noisy, NfdsConfig(seed=seed)), noisy.noisy, windows)
        assert dropped >= 0.95, f'seed {seed}: {dropped:.3f} of the noise dropped'
        assert kept >= 0.85, f'seed {seed}: {kept:.3f} of the clean windows kept'


@pytest.mark.slow
def test_rooms_with_a_fifth_of_noise_for_five_seeds() -> None:
    check_five_seeds(network(), lambda seed: open_pool('synthetic', 4, DEMO_SIZE, 120, seed), 120)


@pytest.mark.slow
def test_the_demo_model_with_a_fifth_of_noise_for_five_seeds(project_dir: Path) -> None:
    path = project_dir / DEMO
    if not path.is_file():
        pytest.skip(f'{DEMO} is not there: train the demo model first')
    model = load_model(path)
    check_five_seeds(model, lambda seed: open_pool('synthetic', 4, DEMO_SIZE, 400, seed), 400)
