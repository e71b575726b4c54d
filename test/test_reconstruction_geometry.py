# Copyright 2026 qvggt_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Rotations, rigid motions and similarities hold their laws."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from qvggt_ros.reconstruction.geometry import (
    BODY_FROM_OPTICAL,
    Sim3,
    invert_pose,
    pose_matrix,
    quaternion_from_rotation,
    rotation_angle,
    rotation_from_quaternion,
    transform_points,
)

NUMBERS = st.floats(-1, 1)
QUATERNIONS = hnp.arrays(np.float64, 4, elements=NUMBERS).filter(
    lambda q: np.linalg.norm(q) > 1e-3
)
VECTORS = hnp.arrays(np.float64, 3, elements=st.floats(-10, 10))
SCALES = st.floats(0.01, 100)
SIM3S = st.builds(
    lambda s, q, t: Sim3(s, rotation_from_quaternion(q), t), SCALES, QUATERNIONS, VECTORS
)


@given(QUATERNIONS)
def test_quaternion_gives_a_rotation_and_comes_back(quaternion: np.ndarray) -> None:
    rotation = rotation_from_quaternion(quaternion)
    np.testing.assert_allclose(rotation @ rotation.T, np.eye(3), atol=1e-12)
    assert np.linalg.det(rotation) == pytest.approx(1)
    back = quaternion_from_rotation(rotation)
    unit = quaternion / np.linalg.norm(quaternion)
    assert abs(back @ unit) == pytest.approx(1, abs=1e-12)
    assert back[3] >= 0


def test_quaternion_of_a_quarter_turn_about_z() -> None:
    half = np.sqrt(0.5)
    rotation = rotation_from_quaternion([0, 0, half, half])
    np.testing.assert_allclose(rotation @ [1, 0, 0], [0, 1, 0], atol=1e-15)
    assert rotation_angle(rotation) == pytest.approx(np.pi / 2)


def test_half_turns_have_quaternions() -> None:
    for axis in np.eye(3):
        rotation = 2 * np.outer(axis, axis) - np.eye(3)
        np.testing.assert_allclose(abs(quaternion_from_rotation(rotation)), [*axis, 0], atol=1e-8)


@given(QUATERNIONS, VECTORS, VECTORS)
def test_inverse_pose_undoes_the_pose(
    quaternion: np.ndarray, translation: np.ndarray, point: np.ndarray
) -> None:
    pose = pose_matrix(rotation_from_quaternion(quaternion), translation)
    np.testing.assert_allclose(invert_pose(pose) @ pose, np.eye(4), atol=1e-12)
    back = transform_points(invert_pose(pose[:3]), transform_points(pose, point))
    np.testing.assert_allclose(back, point, atol=1e-11)


@given(SIM3S, SIM3S, VECTORS)
def test_similarities_compose_and_invert(a: Sim3, b: Sim3, point: np.ndarray) -> None:
    np.testing.assert_allclose((a @ b).apply(point), a.apply(b.apply(point)), rtol=1e-9, atol=1e-7)
    np.testing.assert_allclose(a.inverse().apply(a.apply(point)), point, atol=1e-7)
    assert (a @ a.inverse()).scale == pytest.approx(1)


@given(SIM3S, QUATERNIONS, VECTORS, VECTORS)
def test_similarity_moves_a_camera_with_what_it_sees(
    similarity: Sim3, quaternion: np.ndarray, centre: np.ndarray, in_camera: np.ndarray
) -> None:
    pose = pose_matrix(rotation_from_quaternion(quaternion), centre)
    moved_point = similarity.apply(transform_points(pose, in_camera))
    through_moved_camera = transform_points(
        similarity.apply_pose(pose), similarity.scale * in_camera
    )
    np.testing.assert_allclose(moved_point, through_moved_camera, atol=1e-6)


def test_optical_forward_right_down_become_x_minus_y_minus_z() -> None:
    rotation = BODY_FROM_OPTICAL[:3, :3]
    np.testing.assert_array_equal(rotation @ [0, 0, 1], [1, 0, 0])
    np.testing.assert_array_equal(rotation @ [1, 0, 0], [0, -1, 0])
    np.testing.assert_array_equal(rotation @ [0, 1, 0], [0, 0, -1])
    assert np.linalg.det(rotation) == 1
