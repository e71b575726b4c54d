# Copyright 2026 qvggt_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""The plan names every layer and says what happens to it."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from qvggt_ros.errors import UsageError
from qvggt_ros.quantization.recipe import METHODS, PRECISIONS, LayerPlan, plan_layers
from qvggt_ros.vggt import VGGT, VGGTConfig


def plans(precision: str, method: str) -> dict[str, LayerPlan]:
    with torch.device('meta'):
        return plan_layers(VGGT(VGGTConfig.demo()), precision, method)


@pytest.mark.parametrize('precision', PRECISIONS)
@pytest.mark.parametrize('method', METHODS)
def test_every_layer_with_weights_has_a_plan(precision: str, method: str) -> None:
    found = plans(precision, method)
    with torch.device('meta'):
        model = VGGT(VGGTConfig.demo())
    layers = [n for n, p in model.named_parameters() if n.endswith('weight') and p.ndim >= 2]
    assert {f'{name}.weight' for name in found} == set(layers)
    assert all(plan.name == name for name, plan in found.items())


def test_integer_layers_of_w8a8() -> None:
    found = plans('w8a8', 'dsfq')
    qkv = found['aggregator.global_blocks.3.attn.qkv']
    assert (qkv.weight_bits, qkv.activation, qkv.activation_bits) == (8, 'static', 8)
    assert (qkv.smoothing, qkv.hadamard, qkv.weight_block) == ('norm', False, None)
    fc2 = found['aggregator.frame_blocks.0.mlp.fc2']
    assert fc2.offset and fc2.smoothing == 'none' and not fc2.hadamard
    assert found['camera_head.pose_branch.fc2'].weight_bits == 32
    head = found['camera_head.trunk.0.mlp.fc2']
    assert (head.weight_bits, head.activation, head.activation_bits) == (8, 'static', 16)
    assert not head.offset
    assert found['depth_head.scratch.layer1_rn'].activation == 'none'
    assert found['depth_head.projects.0'].activation == 'static'


def test_coarse_inputs_of_fc2_are_rotated_as_they_come() -> None:
    fc2 = plans('w4a4', 'dsfq')['aggregator.frame_blocks.0.mlp.fc2']
    assert fc2.hadamard and fc2.smoothing == 'online' and fc2.activation == 'token'
    head = plans('w4a4', 'dsfq')['camera_head.trunk.0.mlp.fc2']
    assert not head.hadamard and (head.activation, head.activation_bits) == ('static', 16)


def test_tokens_have_offsets_where_ranges_are_searched() -> None:
    for precision in ('w4a8', 'w4a4', 'w4a4g64'):
        qkv = plans(precision, 'dsfq')['aggregator.frame_blocks.0.attn.qkv']
        assert qkv.activation == 'token' and qkv.offset
        assert not plans(precision, 'rtn')[qkv.name].offset


def test_blocks_of_channels_have_steps_of_their_own() -> None:
    finer = plans('w4a4g64', 'rtn')['aggregator.frame_blocks.0.mlp.fc2']
    assert (finer.weight_block, finer.activation_block) == (64, 64)
    assert plans('w4a4', 'rtn')[finer.name].activation_block is None


def test_baselines_leave_out_what_is_not_theirs() -> None:
    assert not any(plan.offset or plan.hadamard for plan in plans('w8a8', 'rtn').values())
    smoothed = {p.kind for p in plans('w8a8', 'smoothquant').values() if p.smoothing != 'none'}
    assert smoothed == {'qkv', 'fc1'}
    assert {p.smoothing for p in plans('w4a4', 'quarot').values()} == {'none'}


def test_weights_that_do_not_split_into_blocks_get_eight_bits() -> None:
    with torch.device('meta'):
        model = VGGT(replace(VGGTConfig.demo(), width=96))
    plan = plan_layers(model, 'w4a16', 'dsfq')['aggregator.frame_blocks.0.attn.qkv']
    assert (plan.weight_bits, plan.weight_block) == (8, None)


def test_unknown_names_are_refused() -> None:
    with pytest.raises(UsageError, match='w3a3'):
        plans('w3a3', 'dsfq')
    with pytest.raises(UsageError, match='gptq'):
        plans('w8a8', 'gptq')
