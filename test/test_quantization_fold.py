# Copyright 2026 qvggt_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Folding changes weights and never the function."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from small_networks import SMALL, SMALL_FRAMES, SMALL_SIZE, lively
from torch import Tensor

from qvggt_ros.quantization.fold import (
    all_blocks,
    fold_head_balance,
    fold_head_rotation,
    fold_layer_scale,
    fold_rotation,
)
from qvggt_ros.quantization.hadamard import (
    hadamard,
    kronecker_factors,
    mean_keeping_rotation,
    random_hadamard,
    rotate_online,
)
from qvggt_ros.vggt import VGGT

EXACT = 1e-9


@pytest.mark.parametrize('size', [2, 8, 64, 128, 12, 80])
def test_rotations_are_orthogonal_and_spread_every_channel(size: int) -> None:
    for matrix in (hadamard(size), random_hadamard(size, 3), mean_keeping_rotation(size, 3)):
        torch.testing.assert_close(matrix @ matrix.T, torch.eye(size, dtype=torch.float64))
    assert float(hadamard(size).abs().max()) <= 2 * size**-0.5 + 1e-12


@pytest.mark.parametrize('size', [8, 128, 12])
def test_a_mean_keeping_rotation_commutes_with_layer_norm(size: int) -> None:
    rotation = mean_keeping_rotation(size, 5)
    x = 3 + torch.randn(7, size, dtype=torch.float64)
    norm = torch.nn.functional.layer_norm
    torch.testing.assert_close(
        norm(x @ rotation, (size,)), norm(x, (size,)) @ rotation, atol=EXACT, rtol=0
    )


def test_the_rotation_of_another_seed_is_another() -> None:
    assert not torch.allclose(mean_keeping_rotation(64, 0), mean_keeping_rotation(64, 1))


@pytest.mark.parametrize('size', [16, 512, 48])
def test_two_small_products_are_the_large_one(size: int) -> None:
    a, b = kronecker_factors(size)
    left, right = hadamard(a), hadamard(b)
    x = torch.randn(3, size, dtype=torch.float64)
    torch.testing.assert_close(rotate_online(x, left, right), x @ torch.kron(left, right))
    if size & (size - 1) == 0:
        torch.testing.assert_close(torch.kron(left, right), hadamard(size))


def outputs(model: VGGT) -> list[Tensor]:
    images = torch.rand(2, SMALL_FRAMES, 3, *SMALL_SIZE, dtype=torch.float64)
    with torch.inference_mode():
        out = model(images)
    return [out['pose_enc'], out['depth'].log(), out['depth_conf'].log()]


FOLDS: dict[str, Callable[[VGGT], VGGT]] = {
    'layer scale': fold_layer_scale,
    'rotation': lambda model: fold_rotation(fold_layer_scale(model), 1),
    'heads': lambda model: fold_head_rotation(model, balance=False),
    'balanced dense head': fold_head_balance,
    'balanced heads': lambda model: fold_head_rotation(model, balance=True),
    'all': lambda model: fold_head_rotation(
        fold_rotation(fold_layer_scale(model), 2), balance=True
    ),
}


@pytest.mark.parametrize('name', FOLDS)
def test_a_folded_network_computes_the_same(name: str) -> None:
    model = lively(SMALL, dtype=torch.float64)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    folded = FOLDS[name](model)
    torch.manual_seed(0)
    wanted = outputs(model)
    torch.manual_seed(0)
    found = outputs(folded)
    for one, other in zip(found, wanted, strict=True):
        assert float((one - other).abs().max()) < EXACT * max(1.0, float(other.abs().max()))
    for key, value in model.state_dict().items():
        assert torch.equal(value, before[key])  # the original is left alone


def test_an_outlier_channel_hidden_in_v_is_balanced_away() -> None:
    model = fold_layer_scale(lively(SMALL, dtype=torch.float64))
    attention = all_blocks(model)[1].attn  # the first after the encoder's only one
    twin = fold_head_rotation(model, balance=True)
    with torch.no_grad():
        attention.qkv.weight[2 * SMALL.width + 5] *= 1000
        attention.qkv.bias[2 * SMALL.width + 5] *= 1000
        attention.proj.weight[:, 5] /= 1000
    other = fold_head_rotation(model, balance=True)
    for one, two in zip(twin.parameters(), other.parameters(), strict=True):
        torch.testing.assert_close(one, two, atol=1e-9, rtol=1e-9)
