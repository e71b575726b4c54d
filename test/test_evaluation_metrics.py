# Copyright 2026 qvggt_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Pose and depth metrics against cases worked by hand."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy.spatial.transform import Rotation

from qvggt_ros.evaluation.metrics import (
    UNDEFINED_ERROR_DEG,
    AccuracyAccumulator,
    depth_errors,
    median_scale,
    pose_auc,
    relative_pose_errors,
)


def pose(yaw_deg: float, translation: tuple[float, float, float]) -> NDArray[np.float64]:
    """Camera-from-world [3, 4] of a rotation about y and a translation."""
    rotation = Rotation.from_euler('y', yaw_deg, degrees=True).as_matrix()
    return np.hstack([rotation, np.array(translation)[:, None]])


def test_rotation_error_is_the_angle_between_relative_rotations() -> None:
    true = np.stack([pose(0, (0, 0, 0)), pose(10, (1, 0, 0))])
    estimated = np.stack([pose(0, (0, 0, 0)), pose(14, (1, 0, 0))])
    rotation, _ = relative_pose_errors(estimated, true)
    assert rotation == pytest.approx([4.0], abs=1e-9)


def test_translation_error_is_the_angle_of_directions_without_sign() -> None:
    true = np.stack([pose(0, (0, 0, 0)), pose(0, (2, 0, 0))])
    for vector, expected in [((1, 1, 0), 45.0), ((-1, 0, 0), 0.0), ((0, 3, 0), 90.0)]:
        estimated = np.stack([pose(0, (0, 0, 0)), pose(0, vector)])
        _, translation = relative_pose_errors(estimated, true)
        assert translation == pytest.approx([expected], abs=1e-9)


def test_a_pair_without_baseline_has_no_direction_and_counts_as_missed() -> None:
    still = np.stack([pose(0, (0, 0, 0)), pose(0, (0, 0, 0))])
    rotation, translation = relative_pose_errors(still, still)
    assert rotation == pytest.approx([0.0])
    assert translation == [UNDEFINED_ERROR_DEG]
    assert pose_auc(rotation, translation, 30) == 0.0


def test_a_pose_that_is_not_finite_counts_as_missed() -> None:
    true = np.stack([pose(0, (0, 0, 0)), pose(5, (1, 0, 0))])
    broken = true.copy()
    broken[1] = np.nan
    rotation, translation = relative_pose_errors(broken, true)
    assert rotation == [UNDEFINED_ERROR_DEG] and translation == [UNDEFINED_ERROR_DEG]


def test_auc_of_cases_worked_by_hand() -> None:
    # One pair of error 0: every cumulative bin is 1.
    assert pose_auc([0.0], [0.0], 30) == pytest.approx(100.0)
    # Error 1.5 falls into bin [1, 2): bins 1 and 2 of 3 are full, (0 + 1 + 1) / 3.
    assert pose_auc([1.5], [0.2], 3) == pytest.approx(200 / 3)
    # Two pairs, errors 0.5 and 4.5, threshold 5: cumulative (.5 .5 .5 .5 1), mean 0.6.
    assert pose_auc([0.5, 4.5], [0.0, 0.0], 5) == pytest.approx(60.0)
    # The larger of the two errors decides, and one beyond the threshold counts for nothing.
    assert pose_auc([0.0, 0.0], [0.0, 31.0], 30) == pytest.approx(50.0)


def test_depth_errors_of_a_case_worked_by_hand() -> None:
    true = np.array([[1.0, 2.0, 4.0, 0.0]])
    estimated = np.array([[1.0, 1.0, 2.0, 9.0]])  # medians 2 and 1 -> scale 2 -> 2, 2, 4
    assert median_scale(estimated, true) == pytest.approx(2.0)
    absrel, delta1 = depth_errors(estimated, true)
    assert absrel == pytest.approx(1 / 3)
    assert delta1 == pytest.approx(2 / 3)


def test_depth_without_a_valid_pixel_is_not_a_number() -> None:
    absrel, delta1 = depth_errors(np.ones((1, 2)), np.zeros((1, 2)))
    assert np.isnan(absrel) and np.isnan(delta1)


@given(st.integers(0, 2**31), st.floats(0.01, 100))
def test_errors_do_not_depend_on_the_world_or_its_scale(seed: int, scale: float) -> None:
    rng = np.random.default_rng(seed)
    rotation = Rotation.random(4, random_state=seed).as_matrix()
    true = np.concatenate([rotation, rng.normal(size=(4, 3, 1))], axis=-1)
    world = np.eye(4)
    world[:3, :3] = Rotation.random(random_state=seed + 1).as_matrix()
    world[:3, 3] = rng.normal(size=3)
    moved = true @ world
    moved[:, :, 3] *= scale
    # scaling the camera-frame translation scales the world about each camera's own axes
    rotation_deg, _ = relative_pose_errors(moved, true)
    assert np.all(rotation_deg < 1e-5)
    rotation_deg, translation_deg = relative_pose_errors(true @ world, true)
    assert np.all(rotation_deg < 1e-5) and np.all(translation_deg < 1e-5)


def test_the_summary_pools_pairs_over_windows() -> None:
    accumulator = AccuracyAccumulator()
    true = np.stack([pose(0, (0, 0, 0)), pose(0, (1, 0, 0)), pose(0, (2, 0.5, 0))])
    accumulator.add(true, true, np.ones((3, 2, 2)), 3 * np.ones((3, 2, 2)))
    figures = accumulator.summary()
    assert figures['auc30'] == pytest.approx(100.0)
    assert figures['absrel'] == pytest.approx(0.0) and figures['delta1'] == 1.0
    assert figures['windows'] == 1
    assert set(figures) == {
        *('auc30', 'auc15', 'auc10', 'auc5', 'auc3'),
        *('rot_median_deg', 'trans_median_deg', 'absrel', 'delta1', 'windows'),
    }
