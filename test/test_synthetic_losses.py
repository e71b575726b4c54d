# Copyright 2026 qvggt_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Losses: zero where they should be, and values worked by hand."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy.spatial.transform import Rotation

from qvggt_ros.synthetic.losses import (
    BASELINE_DELTA,
    SHORT_BASELINE,
    LossWeights,
    PatchHead,
    _relative_translations,
    baseline_loss,
    bilinear_shares,
    camera_loss,
    depth_loss,
    flow_loss,
    matching_loss,
    patch_pose_loss,
    points_loss,
    rotation_from_quaternion,
    signed_log,
)
from qvggt_ros.synthetic.targets import PatchMatches

GRID = (2, 3)
PATCHES = 6
SPECIAL = 1
# The baseline loss of a small error is so many times its square.
SQUARE = 0.5 / BASELINE_DELTA


def matches(position: torch.Tensor, visible: torch.Tensor | None = None) -> PatchMatches:
    """Place frame 1's patches at positions [P, 2] in frame 0 of one window of two frames."""
    full = torch.zeros(1, 2, 2, PATCHES, 2)
    full[0, 1, 0] = position
    seen = torch.ones(1, 2, 2, PATCHES, dtype=torch.bool)
    if visible is not None:
        seen[0, 1, 0] = visible
    points = torch.zeros(1, 2, PATCHES, 3)
    return PatchMatches(full, inside=seen, visible=seen, in_camera=points, in_first=points)


def test_bilinear_shares_of_hand_worked_positions() -> None:
    shares = bilinear_shares(torch.tensor([[0.0, 1.0], [0.5, 1.25], [-3.0, 9.0]]), GRID)
    assert shares[0].tolist() == [0, 1, 0, 0, 0, 0]
    assert shares[1].tolist() == pytest.approx([0, 0.375, 0.125, 0, 0.375, 0.125])
    assert shares[2].tolist() == [0, 0, 1, 0, 0, 0]


def test_attention_on_the_right_patch_costs_nothing_and_uniform_attention_its_entropy() -> None:
    target = torch.tensor([5, 4, 3, 2, 1, 0])
    position = torch.stack([target // 3, target % 3], dim=-1).float()
    tokens = 2 * (SPECIAL + PATCHES)
    key = 100 * torch.eye(tokens)[None]
    query = torch.zeros(1, tokens, tokens)
    for patch, other in enumerate(target.tolist()):
        query[0, SPECIAL + PATCHES + SPECIAL + patch, SPECIAL + other] = 100
    assert float(matching_loss(query, key, matches(position), GRID)) < 1e-3
    uniform = matching_loss(torch.zeros_like(query), key, matches(position), GRID)
    assert float(uniform) == pytest.approx(math.log(tokens))


def test_hidden_patches_are_not_matched() -> None:
    hidden = matches(torch.zeros(PATCHES, 2), torch.zeros(PATCHES, dtype=torch.bool))
    query = torch.randn(1, 14, 4, requires_grad=True)
    loss = matching_loss(query, torch.randn(1, 14, 4), hidden, GRID)
    loss.backward()
    assert float(loss.detach()) == 0 and query.grad is not None and not query.grad.any()


def test_the_right_flow_costs_nothing() -> None:
    home = torch.tensor([[r, c] for r in range(2) for c in range(3)]).float()
    shifted = matches(home + torch.tensor([0.25, -0.5]))
    flow = torch.tensor([0.25, -0.5]).expand(1, 2, PATCHES, 2)
    loss, median = flow_loss(flow, shifted, GRID)
    assert float(loss) == pytest.approx(0) and float(median) == pytest.approx(0)
    _, median = flow_loss(torch.zeros_like(flow), shifted, GRID)
    assert float(median) == pytest.approx(math.hypot(0.25, 0.5))


def test_camera_loss_is_zero_only_for_the_right_pose_and_later_iterations_count_more() -> None:
    target = torch.randn(2, 3, 9)
    weights = LossWeights()
    assert float(camera_loss([target, target], target, weights)) == 0
    early = camera_loss([target + 1, target], target, weights)
    late = camera_loss([target, target + 1], target, weights)
    assert 0 < float(early) < float(late)


def test_depth_loss_of_a_case_worked_by_hand() -> None:
    weights = LossWeights(depth=1, depth_gradient=1, confidence_log=0.2)
    target = torch.ones(1, 2, 2)
    confidence = torch.full((1, 2, 2), 2.0)
    value, gradient = depth_loss(target + 0.5, confidence, target, weights)
    assert float(value) == pytest.approx(2 * 0.5 - 0.2 * math.log(2))
    assert float(gradient) == 0
    ramp = target + torch.tensor([[0.0, 1.0], [0.0, 1.0]])
    _, gradient = depth_loss(ramp, confidence, target, weights)
    assert float(gradient) == pytest.approx(1.0)


def test_the_patch_head_answers_with_flow_points_and_pose() -> None:
    answers = PatchHead(8)(torch.zeros(1, 2, PATCHES, 8))
    assert answers.flow.shape == (1, 2, PATCHES, 2)
    assert answers.points.shape == (1, 2, PATCHES, 6)
    assert answers.pose.shape == (1, 2, PATCHES, 7)


def test_signed_log_keeps_sign_and_order() -> None:
    e = math.e
    found = signed_log(torch.tensor([0.0, e - 1, 1 - e, e**2 - 1, 1 - e**3]))
    assert found.tolist() == pytest.approx([0, 1, -1, 2, -3])


def test_points_are_scored_in_both_cameras_after_their_logarithm() -> None:
    own = torch.tensor([0.0, 1 - math.e, math.e - 1]).expand(1, 2, PATCHES, 3)
    first = torch.tensor([math.e**2 - 1, 0.0, 0.0]).expand(1, 2, PATCHES, 3)
    truth = replace(matches(torch.zeros(PATCHES, 2)), in_camera=own, in_first=first)
    right = torch.tensor([0.0, -1, 1, 2, 0, 0]).expand(1, 2, PATCHES, 6)
    assert float(points_loss(right, truth)) == pytest.approx(0, abs=1e-6)
    # Beyond 0.1 the loss is |error| - 0.05; one of six numbers is wrong by 1.
    for place in range(6):
        wrong = right.clone()
        wrong[..., place] += 1
        assert float(points_loss(wrong, truth)) == pytest.approx(0.95 / 6, rel=1e-5)


def test_patch_poses_are_scored_at_every_patch_but_the_first_frames() -> None:
    weights = LossWeights(translation=2, quaternion=3)
    target = torch.randn(2, 3, 9)
    right = target[:, :, None, :7].expand(2, 3, PATCHES, 7).clone()
    right[:, 0] = 99
    assert float(patch_pose_loss(right, target, weights)) == 0
    moved, turned = right.clone(), right.clone()
    moved[..., 1] += 1
    turned[..., 6] -= 1
    assert float(patch_pose_loss(moved, target, weights)) == pytest.approx(2 * 0.95 / 7, rel=1e-4)
    assert float(patch_pose_loss(turned, target, weights)) == pytest.approx(3 * 0.95 / 7, rel=1e-4)
    one = right.clone()
    one[0, 1, 4, 0] += 1
    share = 2 * 0.95 / (7 * 2 * 2 * PATCHES)
    assert float(patch_pose_loss(one, target, weights)) == pytest.approx(share, rel=1e-4)


def encoding(*translations: tuple[float, float, float]) -> torch.Tensor:
    """Return pose encodings [1, s, 9] of cameras that are not turned."""
    return torch.tensor([[[*t, 0.0, 0, 0, 1, 1, 1] for t in translations]])


def test_the_baseline_loss_is_zero_at_the_truth_and_forgives_a_longer_quaternion() -> None:
    target = torch.randn(2, 4, 9)
    same = torch.cat([target[..., :3], 2.5 * target[..., 3:7], target[..., 7:] + 1], dim=-1)
    assert float(baseline_loss(same, target)) == pytest.approx(0, abs=1e-9)


@pytest.mark.parametrize('length', [0.05, 0.5, 5.0])
def test_the_baseline_loss_is_relative_to_the_baselines_length(length: float) -> None:
    target = encoding((0, 0, 0), (length, 0, 0))
    aside = encoding((0, 0, 0), (length, 0.1 * (length + SHORT_BASELINE), 0))
    # One of three numbers is wrong by a tenth.
    assert float(baseline_loss(aside, target)) == pytest.approx(SQUARE * 0.1**2 / 3, rel=1e-4)


def test_a_short_baseline_is_not_blown_up() -> None:
    still = encoding((0, 0, 0), (0, 0, 0))
    moved = encoding((0, 0, 0), (SHORT_BASELINE / 10, 0, 0))
    assert float(baseline_loss(moved, still)) == pytest.approx(SQUARE * 0.1**2 / 3, rel=1e-4)


def test_every_pair_counts_in_the_baseline_loss() -> None:
    x = (0.0, 1 - SHORT_BASELINE, 3 - 2 * SHORT_BASELINE)
    target = encoding(*((t, 0, 0) for t in x))
    wrong = encoding(*((t, 0.1 * (t == x[1]), 0) for t in x))
    # Pairs 0-1, 0-2 and 1-2, of lengths 1, 3 - s and 2 with the addend; 0-2 is right.
    expected = SQUARE * (0.1**2 + 0 + 0.05**2) / 9
    assert float(baseline_loss(wrong, target)) == pytest.approx(expected, rel=1e-4)


def test_a_pairs_translation_is_seen_from_its_second_camera() -> None:
    # Camera 1 is turned by 90 degrees about z and stands where it is at (1, 0, 0) of the first:
    # t = -R c = (0, -1, 0). Camera 2, of the same turn, stands at (1, 2, 0).
    half = math.sqrt(0.5)
    turned = [0.0, 0.0, half, half, 1.0, 1.0]
    pose = torch.tensor(
        [[[0.0, 0, 0, 0, 0, 0, 1, 1, 1], [0, -1, 0, *turned], [2, -1, 0, *turned]]]
    )
    found = _relative_translations(pose)[0]
    expected = torch.tensor([[0.0, -1, 0], [2.0, -1, 0], [2.0, 0, 0]])
    torch.testing.assert_close(found, expected, atol=1e-6, rtol=0)


def test_rotations_of_quaternions() -> None:
    half = math.sqrt(0.5)
    about_z = rotation_from_quaternion(torch.tensor([0.0, 0.0, half, half]))
    expected = torch.tensor([[0.0, -1, 0], [1, 0, 0], [0, 0, 1]])
    torch.testing.assert_close(about_z, expected, atol=1e-6, rtol=0)
    quaternion = torch.randn(50, 4, generator=torch.Generator().manual_seed(0)).double()
    found = rotation_from_quaternion(quaternion).numpy()
    np.testing.assert_allclose(found, Rotation.from_quat(quaternion).as_matrix(), atol=1e-9)
    np.testing.assert_allclose(rotation_from_quaternion(-7 * quaternion), found, atol=1e-9)
