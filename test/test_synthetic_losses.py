# Copyright 2026 qvggt_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Losses: zero where they should be, and values worked by hand."""

from __future__ import annotations

import math

import pytest
import torch

from qvggt_ros.synthetic.losses import (
    FlowHead,
    LossWeights,
    bilinear_shares,
    camera_loss,
    depth_loss,
    flow_loss,
    matching_loss,
)
from qvggt_ros.synthetic.targets import PatchMatches

GRID = (2, 3)
PATCHES = 6
SPECIAL = 1


def matches(position: torch.Tensor, visible: torch.Tensor | None = None) -> PatchMatches:
    """Place frame 1's patches at positions [P, 2] in frame 0 of one window of two frames."""
    full = torch.zeros(1, 2, 2, PATCHES, 2)
    full[0, 1, 0] = position
    seen = torch.ones(1, 2, 2, PATCHES, dtype=torch.bool)
    if visible is not None:
        seen[0, 1, 0] = visible
    return PatchMatches(position=full, inside=seen, visible=seen)


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


def test_the_flow_head_returns_two_numbers_a_patch() -> None:
    assert FlowHead(8)(torch.zeros(1, 2, PATCHES, 8)).shape == (1, 2, PATCHES, 2)
