# Copyright 2026 qvggt_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Errors of rounded weights cancel on the inputs that are really seen."""

from __future__ import annotations

import torch

from qvggt_ros.quantization.compensate import compensated_integers
from qvggt_ros.quantization.quantizer import step_of, weight_blocks


def output_error(weight: torch.Tensor, integers: torch.Tensor, x: torch.Tensor) -> float:
    blocks = weight_blocks(weight, 16)
    steps = step_of(blocks.abs().amax(dim=-1), 4)
    rounded = (integers.unflatten(1, (-1, 16)) * steps[..., None]).flatten(1)
    return float((x @ (rounded - weight).T).norm() / (x @ weight.T).norm())


def test_correlated_inputs_gain_and_integers_stay_in_range() -> None:
    torch.manual_seed(0)
    x = torch.randn(500, 8) @ torch.randn(8, 64) + 0.1 * torch.randn(500, 64)
    weight = torch.randn(24, 64)
    steps = step_of(weight_blocks(weight, 16).abs().amax(dim=-1), 4)
    nearest = (weight.unflatten(1, (-1, 16)) / steps[..., None]).round().clamp(-8, 7).flatten(1)
    found = compensated_integers(weight, steps, x.T @ x, 4)
    assert float(found.min()) >= -8 and float(found.max()) <= 7
    assert torch.equal(found, found.round())
    gained = output_error(weight, found.float(), x) / output_error(weight, nearest, x)
    assert gained < 0.6


def test_independent_inputs_are_rounded_to_nearest() -> None:
    torch.manual_seed(0)
    weight = torch.randn(5, 64)
    steps = step_of(weight.abs().amax(dim=1, keepdim=True), 4)
    found = compensated_integers(weight, steps, torch.eye(64), 4)
    assert torch.equal(found.float(), (weight / steps).round().clamp(-8, 7))


def test_inputs_that_never_come_do_no_harm() -> None:
    weight, moments = torch.randn(5, 64), torch.zeros(64, 64)
    found = compensated_integers(
        weight, step_of(weight.abs().amax(dim=1, keepdim=True), 4), moments, 4
    )
    assert torch.isfinite(found).all()
