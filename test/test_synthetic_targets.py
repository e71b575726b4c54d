# Copyright 2026 qvggt_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Training targets against rendered geometry and independent formulas."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial.transform import Rotation

from qvggt_ros.reconstruction.decode import decode_pose_encoding
from qvggt_ros.synthetic.sequences import SequenceBatch, render_batch
from qvggt_ros.synthetic.targets import (
    patch_matches,
    quaternion_from_rotation,
    rigid_inverse,
    transform,
    unproject,
    window_targets,
)
from qvggt_ros.synthetic.windows import WINDOW_MOTION

PATCH = 14


@pytest.fixture(scope='module')
def batch() -> SequenceBatch:
    return render_batch(range(10_000, 10_008), 3, 112, 84, motion=WINDOW_MOTION)


@settings(deadline=None)
@given(st.integers(0, 2**32 - 1))
def test_quaternions_are_those_of_scipy_with_positive_scalar(seed: int) -> None:
    rotation = Rotation.random(16, random_state=seed)
    expected = rotation.as_quat(canonical=True)
    found = quaternion_from_rotation(torch.from_numpy(rotation.as_matrix())).numpy()
    np.testing.assert_allclose(np.abs(np.sum(found * expected, axis=-1)), 1, atol=1e-9)
    assert (found[:, 3] >= 0).all()


def test_half_turns_have_a_quaternion_too() -> None:
    half_turns = Rotation.from_rotvec(np.pi * np.eye(3)).as_matrix()
    found = quaternion_from_rotation(torch.from_numpy(half_turns)).numpy()
    np.testing.assert_allclose(np.abs(found[:, :3]), np.eye(3), atol=1e-9)


def test_targets_are_in_the_first_camera_and_have_mean_distance_one(batch: SequenceBatch) -> None:
    targets = window_targets(batch.depth_m, batch.camera_from_world, batch.intrinsics)
    identity = torch.eye(4).expand(8, 4, 4)
    torch.testing.assert_close(targets.camera_from_first[:, 0], identity, atol=1e-5, rtol=0)
    points = unproject(targets.depth, batch.intrinsics)
    first_from_camera = rigid_inverse(targets.camera_from_first)
    distance = transform(first_from_camera[:, :, None, None], points).norm(dim=-1)
    torch.testing.assert_close(distance.mean(dim=(1, 2, 3)), torch.ones(8), atol=1e-4, rtol=0)


def test_decoding_the_target_encoding_gives_the_cameras_back(batch: SequenceBatch) -> None:
    targets = window_targets(batch.depth_m, batch.camera_from_world, batch.intrinsics)
    poses, intrinsics = decode_pose_encoding(targets.pose_enc.numpy(), 112, 84)
    np.testing.assert_allclose(poses, targets.camera_from_first[:, :, :3].numpy(), atol=1e-5)
    np.testing.assert_allclose(intrinsics, batch.intrinsics.numpy(), rtol=1e-4, atol=1e-3)


def test_visible_matches_show_the_same_surface(batch: SequenceBatch) -> None:
    targets = window_targets(batch.depth_m, batch.camera_from_world, batch.intrinsics)
    matches = patch_matches(targets.depth, targets.camera_from_first, batch.intrinsics, PATCH)
    own = matches.position[:, [0, 1, 2], [0, 1, 2]]
    rows, columns = torch.meshgrid(torch.arange(6.0), torch.arange(8.0), indexing='ij')
    home = torch.stack([rows, columns], dim=-1).reshape(-1, 2).expand_as(own)
    torch.testing.assert_close(own, home, atol=2e-3, rtol=0)
    assert matches.visible[:, [0, 1, 2], [0, 1, 2]].all()
    assert not (matches.visible & ~matches.inside).any()
    assert 0.3 < matches.visible[:, 1, 0].float().mean() < 1.0
    # Colours agree much better where a patch is seen than at the place it came from.
    assert _colour_difference(batch, matches.position, matches.visible) < 0.6 * (
        _colour_difference(
            batch, home[:, :1].unsqueeze(1).expand_as(matches.position), matches.visible
        )
    )


def test_a_pixel_step_takes_every_nth_pixel_from_half_a_step_on(batch: SequenceBatch) -> None:
    whole = unproject(batch.depth_m, batch.intrinsics)
    for step in (1, 2, 3, PATCH):
        some = unproject(batch.depth_m, batch.intrinsics, step)
        torch.testing.assert_close(some, whole[:, :, step // 2 :: step, step // 2 :: step])


def test_a_coarse_scale_is_nearly_the_fine_one(batch: SequenceBatch) -> None:
    data = (batch.depth_m, batch.camera_from_world, batch.intrinsics)
    fine, coarse = window_targets(*data), window_targets(*data, pixel_step=3)
    torch.testing.assert_close(coarse.scale_m, fine.scale_m, rtol=5e-3, atol=0)
    assert coarse.depth.shape == fine.depth.shape
    restored = coarse.depth * coarse.scale_m[:, None, None, None]
    torch.testing.assert_close(restored, batch.depth_m)


def test_patch_points_lie_in_their_own_and_in_the_first_camera(batch: SequenceBatch) -> None:
    targets = window_targets(batch.depth_m, batch.camera_from_world, batch.intrinsics)
    matches = patch_matches(targets.depth, targets.camera_from_first, batch.intrinsics, PATCH)
    middles = unproject(targets.depth, batch.intrinsics, PATCH).flatten(2, 3)
    torch.testing.assert_close(matches.in_camera, middles)
    torch.testing.assert_close(matches.in_first[:, 0], matches.in_camera[:, 0])
    back = transform(targets.camera_from_first[:, :, None], matches.in_first)
    torch.testing.assert_close(back, matches.in_camera, atol=1e-5, rtol=1e-4)


def _colour_difference(batch: SequenceBatch, position: torch.Tensor, seen: torch.Tensor) -> float:
    """Mean colour difference of frame 1's patch middles and frame 0 at the given positions."""
    pixel = (position[:, 1, 0] * PATCH + PATCH // 2).round().long()
    row, column = pixel[..., 0].clamp(0, 83), pixel[..., 1].clamp(0, 111)
    images = batch.images.float() / 255
    there = torch.stack([images[b, 0][:, row[b], column[b]] for b in range(8)])
    here = images[:, 1, :, PATCH // 2 :: PATCH, PATCH // 2 :: PATCH].flatten(2)
    difference = (there - here).abs().mean(dim=1)
    return float(difference[seen[:, 1, 0]].mean())
