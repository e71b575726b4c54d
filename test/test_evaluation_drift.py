# Copyright 2026 qvggt_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Drift between two networks against cases worked by hand."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy.spatial.transform import Rotation
from small_networks import SMALL, SMALL_SIZE, lively

from qvggt_ros.errors import ReconstructionError
from qvggt_ros.evaluation.accuracy import Predict, WindowBatch, evaluate, torch_predictor
from qvggt_ros.evaluation.drift import (
    DriftAccumulator,
    LogHistogram,
    camera_drift,
    evaluate_with_drift,
    reference_run,
)

QUANTITIES = (
    *('rot_deg', 'trans_dir_deg', 'trans_len_rel', 'fov_deg'),
    *('depth_rel', 'depth_scaled_rel'),
)
KEYS = {f'{name}_{suffix}' for name in QUANTITIES for suffix in ('median', 'p95')}


def camera(
    yaw_deg: float, translation: tuple[float, float, float], fov: float = 1.0
) -> NDArray[np.float64]:
    """Pose encoding [9] of a rotation about y, a translation and equal fields of view."""
    quaternion = Rotation.from_euler('y', yaw_deg, degrees=True).as_quat()
    return np.concatenate([translation, quaternion, [fov, fov]])


def noise_batch(windows: int, seed: int) -> WindowBatch:
    rng = np.random.default_rng(seed)
    height, width = SMALL_SIZE
    images = rng.integers(0, 256, (windows, 2, 3, height, width), dtype=np.uint8)
    poses = np.tile(np.eye(4), (windows, 2, 1, 1))
    poses[:, 1, 0, 3] = 1
    return WindowBatch(images, poses, np.ones((windows, 2, height, width), np.float32))


def test_cameras_of_a_case_worked_by_hand() -> None:
    true = np.stack([camera(0, (0, 0, 0)), camera(10, (2, 0, 0)), camera(0, (0, 0, 0.05))])
    found = np.stack(
        [camera(0, (0, 0, 0), 1.1), camera(13, (1, 1, 0)), camera(-5, (0, 0, -9), 0.8)]
    )
    drift = camera_drift(found, true, least_translation=0.1)
    assert drift['rot_deg'] == pytest.approx([3, 5])
    # The third frame moved by less than 0.1: it has no say about translation.
    assert drift['trans_dir_deg'] == pytest.approx([45])
    assert drift['trans_len_rel'] == pytest.approx([(2 - np.sqrt(2)) / 2])
    expected = np.degrees([0.1, 0.1, 0, 0, 0.2, 0.2])
    assert drift['fov_deg'] == pytest.approx(expected, abs=1e-9)


def test_an_opposite_translation_is_180_degrees_off() -> None:
    true = np.stack([camera(0, (0, 0, 0)), camera(0, (1, 0, 0))])
    drift = camera_drift(true * [-1, 1, 1, 1, 1, 1, 1, 1, 1], true, 0.0)
    assert drift['trans_dir_deg'] == pytest.approx([180]) and drift['trans_len_rel'] == [0]


def test_cameras_without_any_translation_leave_it_out() -> None:
    still = np.stack([camera(0, (0, 0, 0)), camera(5, (0, 0, 0))])
    drift = camera_drift(still, still, 0.0)
    assert drift['trans_dir_deg'].size == 0 and drift['rot_deg'] == pytest.approx([0], abs=1e-9)


@given(st.integers(0, 2**31))
def test_cameras_do_not_depend_on_the_world_nor_on_the_quaternions_length(seed: int) -> None:
    rng = np.random.default_rng(seed)
    true = np.stack([camera(yaw, tuple(rng.normal(size=3))) for yaw in (0, 20, -30)])
    world = Rotation.random(random_state=seed)
    moved = true.copy()
    turned = Rotation.from_quat(true[:, 3:7])
    moved[:, :3] += turned.apply(rng.normal(size=3))
    moved[:, 3:7] = (turned * world).as_quat() * rng.uniform(0.5, 2, (3, 1))
    drift = camera_drift(moved, true, 0.0)
    for name in ('rot_deg', 'trans_dir_deg', 'trans_len_rel'):
        assert np.all(drift[name] < 1e-5)


def test_depths_of_a_case_worked_by_hand() -> None:
    poses = np.stack([camera(0, (0, 0, 0)), camera(0, (1, 0, 0))])
    true = np.array([[[1, 2, 4]], [[2, 2, 2]]], np.float32)
    # Median scale 2 / 4: 1, 2, 4, 2, 2, 3.
    found = np.array([[[2, 4, 8]], [[4, 4, 6]]], np.float32)
    accumulator = DriftAccumulator()
    accumulator.add(poses, found, poses, true)
    figures = accumulator.summary()
    assert figures['depth_rel_median'] == pytest.approx(1, rel=1e-3)
    assert figures['depth_rel_p95'] == pytest.approx(2, rel=1e-3)
    assert figures['depth_scaled_rel_median'] == 0
    assert figures['depth_scaled_rel_p95'] == pytest.approx(0.5, rel=1e-3)
    assert set(figures) == KEYS | {'windows'} and figures['windows'] == 1


def test_the_least_translation_is_a_share_of_the_median_depth() -> None:
    true = np.stack([camera(0, (0, 0, 0)), camera(0, (0.05, 0, 0))])
    found = np.stack([camera(0, (0, 0, 0)), camera(0, (0, 0.05, 0))])
    for depth, expected in [(4.9, pytest.approx(90)), (5.1, pytest.approx(np.nan, nan_ok=True))]:
        accumulator = DriftAccumulator()
        depths = np.full((2, 2, 2), depth)
        accumulator.add(found, depths, true, depths)
        assert accumulator.summary()['trans_dir_deg_median'] == expected


def test_poses_that_are_not_finite_are_refused() -> None:
    poses = np.stack([camera(0, (0, 0, 0)), camera(0, (1, 0, 0))])
    depths = np.ones((2, 1, 1))
    with pytest.raises(ReconstructionError, match='NaN'):
        DriftAccumulator().add(np.full((2, 9), np.nan), depths, poses, depths)


@given(st.lists(st.floats(1e-11, 1e11), min_size=1, max_size=50), st.sampled_from([0.5, 0.95]))
def test_streamed_quantiles_are_those_of_the_sorted_values(
    values: list[float], share: float
) -> None:
    histogram = LogHistogram()
    for value in values:
        histogram.add([value])
    exact = np.quantile(values, share, method='inverted_cdf')
    assert histogram.quantile(share) == pytest.approx(exact, rel=6e-4)


def test_streamed_quantiles_of_the_extremes() -> None:
    histogram = LogHistogram()
    assert np.isnan(histogram.quantile(0.5))
    histogram.add(np.array([0.0, 0.0, np.nan, np.inf]))
    assert histogram.quantile(0.5) == 0 and histogram.quantile(0.95) == np.inf


def test_one_reference_serves_many_models_and_predicts_once() -> None:
    batches = [noise_batch(2, seed=1), noise_batch(1, seed=2)]
    calls = 0

    def counted(predict: Predict) -> Predict:
        def inner(
            images: NDArray[np.uint8],
        ) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
            nonlocal calls
            calls += 1
            return predict(images)

        return inner

    predict = torch_predictor(lively(SMALL))
    seen: list[int] = []
    reference = reference_run(counted(predict), iter(batches), seen.append)
    assert calls == 2 and seen == [2, 3]
    assert reference.accuracy == pytest.approx(evaluate(predict, batches), nan_ok=True)
    same = evaluate_with_drift(predict, reference)
    other_predict = counted(torch_predictor(lively(SMALL, seed=1)))
    other = evaluate_with_drift(other_predict, reference, seen.append)
    assert calls == 4 and seen == [2, 3, 2, 3]
    assert set(same) == set(reference.accuracy) | {f'drift_{name}' for name in KEYS}
    assert {k: same[k] for k in reference.accuracy} == pytest.approx(reference.accuracy)
    assert all(same[f'drift_{name}'] < 1e-5 for name in KEYS)
    assert other['drift_rot_deg_median'] > 1 and other['drift_depth_rel_median'] > 0.01
