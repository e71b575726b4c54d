# Copyright 2026 qvggt_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Cameras and points from the network's output: equal to upstream's, guarded where it is not."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from qvggt_ros.errors import ReconstructionError
from qvggt_ros.reconstruction.decode import (
    MIN_FOV_RAD,
    clamp_fov,
    decode_pose_encoding,
    unproject,
    unproject_pixels,
)

# t, quaternion x y z w, fov h, fov w: a camera 1 m to the left of the world, looking along z
PLAIN = np.array([1.0, 0, 0, 0, 0, 0, 1, np.pi / 2, np.pi / 2])


def test_equal_to_upstream(shared_dir: Path) -> None:
    case = np.load(shared_dir / 'parity' / 'parity_a.npz')
    wanted = np.load(shared_dir / 'parity' / 'decode_a.npz')
    _, _, height, width = case['shape']
    extrinsics, intrinsics = decode_pose_encoding(case['pose_enc'], width, height)
    np.testing.assert_allclose(extrinsics, wanted['extrinsic'], atol=1e-4)
    np.testing.assert_allclose(intrinsics, wanted['intrinsic'], rtol=1e-4)  # one is infinite
    points = np.stack(
        [
            unproject(case['depth'][0, i, ..., 0], intrinsics[0, i], extrinsics[0, i])
            for i in range(2)
        ]
    )
    np.testing.assert_allclose(points, wanted['world_points_from_depth'], atol=1e-4)


def test_quarter_turn_field_of_view_by_hand() -> None:
    extrinsics, intrinsics = decode_pose_encoding(PLAIN, width=8, height=4)
    np.testing.assert_allclose(intrinsics, [[4, 0, 4], [0, 2, 2], [0, 0, 1]])
    np.testing.assert_allclose(extrinsics, [[1, 0, 0, 1], [0, 1, 0, 0], [0, 0, 1, 0]])


def test_unprojection_by_hand() -> None:
    extrinsics, intrinsics = decode_pose_encoding(PLAIN, width=8, height=4)
    points = unproject(np.full((4, 8), 3.0), intrinsics, extrinsics)
    # the pixel at the principal point lies on the optical axis, seen from x = -1
    np.testing.assert_allclose(points[2, 4], [-1, 0, 3])
    np.testing.assert_allclose(points[0, 0], [-1 - 3, -3, 3])


def test_chosen_pixels_equal_the_whole_image() -> None:
    rng = np.random.default_rng(0)
    extrinsics, intrinsics = decode_pose_encoding(rng.normal(size=9) ** 2 + 0.1, 8, 4)
    depth = rng.uniform(1, 2, (4, 8))
    v, u = np.mgrid[:4, :8]
    chosen = unproject_pixels(u.ravel(), v.ravel(), depth.ravel(), intrinsics, extrinsics)
    np.testing.assert_allclose(chosen.reshape(4, 8, 3), unproject(depth, intrinsics, extrinsics))


def test_points_project_back_to_their_pixels() -> None:
    rng = np.random.default_rng(1)
    extrinsics, intrinsics = decode_pose_encoding(np.r_[rng.normal(size=7), 0.8, 1.1], 12, 6)
    points = unproject(rng.uniform(1, 5, (6, 12)), intrinsics, extrinsics).reshape(-1, 3)
    in_camera = points @ extrinsics[:, :3].T + extrinsics[:, 3]
    pixels = in_camera @ intrinsics.T
    v, u = np.mgrid[:6, :12]
    np.testing.assert_allclose(pixels[:, 0] / pixels[:, 2], u.ravel(), atol=1e-9)
    np.testing.assert_allclose(pixels[:, 1] / pixels[:, 2], v.ravel(), atol=1e-9)


def test_field_of_view_of_zero_is_clamped_and_told() -> None:
    encoding = PLAIN.copy()
    encoding[8] = 0
    assert np.isinf(decode_pose_encoding(encoding, 8, 4)[1][0, 0])
    clamped, changed = clamp_fov(encoding)
    assert changed and clamped[8] == MIN_FOV_RAD
    assert np.isfinite(decode_pose_encoding(clamped, 8, 4)[1]).all()
    assert clamp_fov(PLAIN)[1] is False


@pytest.mark.parametrize('value', [np.nan, np.inf])
def test_not_finite_is_refused(value: float) -> None:
    encoding = PLAIN.copy()
    encoding[2] = value
    with pytest.raises(ReconstructionError, match='NaN or infinity'):
        decode_pose_encoding(encoding, 8, 4)


def test_zero_quaternion_is_refused() -> None:
    encoding = PLAIN.copy()
    encoding[3:7] = 0
    with pytest.raises(ReconstructionError, match='zero quaternion'):
        decode_pose_encoding(encoding, 8, 4)
