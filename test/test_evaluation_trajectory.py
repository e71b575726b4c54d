# Copyright 2026 qvggt_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Trajectory files and errors."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.spatial.transform import Rotation

from qvggt_ros.errors import DatasetError
from qvggt_ros.evaluation.trajectory import make_trajectory, trajectory_error, write_tum

STAMPS_NS = [1_700_000_000_123_456_789 + 100_000_000 * k for k in range(20)]


def poses(seed: int = 0) -> NDArray[np.float64]:
    rng = np.random.default_rng(seed)
    out = np.tile(np.eye(4), (len(STAMPS_NS), 1, 1))
    out[:, :3, :3] = Rotation.from_rotvec(np.cumsum(rng.normal(0, 0.1, (20, 3)), 0)).as_matrix()
    out[:, :3, 3] = np.cumsum(rng.normal(0, 0.2, (20, 3)), axis=0)
    return out


def test_a_similarity_of_the_truth_has_no_error_and_its_scale_is_found() -> None:
    truth = poses()
    moved = truth.copy()
    turn = Rotation.from_euler('xyz', [10, 20, 30], degrees=True).as_matrix()
    moved[:, :3, :3] = turn @ truth[:, :3, :3]
    moved[:, :3, 3] = 0.5 * truth[:, :3, 3] @ turn.T + [1, 2, 3]
    error = trajectory_error(make_trajectory(STAMPS_NS, truth), make_trajectory(STAMPS_NS, moved))
    assert error.poses == 20
    assert error.ate_rmse_m == pytest.approx(0, abs=1e-9)
    assert error.rpe_rot_deg == pytest.approx(0, abs=1e-4)
    assert error.ate_scale == pytest.approx(2.0)
    back = moved[:, :3, 3] @ error.truth_from_map[:3, :3].T + error.truth_from_map[:3, 3]
    np.testing.assert_allclose(back, truth[:, :3, 3], atol=1e-9)


def test_noise_of_known_size_is_measured() -> None:
    truth = poses()
    noisy = truth.copy()
    noisy[:, :3, 3] += np.random.default_rng(1).normal(0, 0.01, (20, 3))
    error = trajectory_error(make_trajectory(STAMPS_NS, truth), make_trajectory(STAMPS_NS, noisy))
    assert 0.008 < error.ate_rmse_m < 0.02


def test_trajectories_without_common_stamps_are_refused() -> None:
    later = [stamp + 10**12 for stamp in STAMPS_NS]
    with pytest.raises(DatasetError, match='cannot be compared'):
        trajectory_error(make_trajectory(STAMPS_NS, poses()), make_trajectory(later, poses()))


def test_tum_files_have_eight_numbers_a_line(tmp_path: Path) -> None:
    path = tmp_path / 'trajectory.tum'
    write_tum(path, make_trajectory(STAMPS_NS, poses()))
    rows = [line.split(' ') for line in path.read_text().splitlines()]
    assert len(rows) == 20 and all(len(row) == 8 for row in rows)
    assert [p.name for p in tmp_path.iterdir()] == ['trajectory.tum']
