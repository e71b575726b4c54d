# Copyright 2026 qvggt_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""The whole network: keys, shapes, its three parts, symmetries, training access."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from small_networks import SMALL, SMALL_SIZE, lively

from qvggt_ros.errors import UsageError
from qvggt_ros.vggt import VGGT, VGGTConfig, WindowTrace
from qvggt_ros.vggt.layers import Block

SAME = 1e-10  # float64 on both sides


def images_of(frames: int, size: tuple[int, int] = SMALL_SIZE, batch: int = 1) -> torch.Tensor:
    generator = torch.Generator().manual_seed(frames)
    return torch.rand(batch, frames, 3, *size, dtype=torch.float64, generator=generator)


@pytest.fixture(scope='module')
def model() -> VGGT:
    return lively(replace(SMALL, point_head=True), dtype=torch.float64).requires_grad_(False)


def test_the_published_model_has_its_keys_and_parameters() -> None:
    with torch.device('meta'):
        state = VGGT(VGGTConfig.vggt_1b()).state_dict()
    assert len(state) == 1797
    assert sum(value.numel() for value in state.values()) == 1_256_537_516
    shapes = {key: tuple(value.shape) for key, value in state.items()}
    assert shapes['aggregator.patch_embed.pos_embed'] == (1, 1370, 1024)
    assert shapes['aggregator.global_blocks.23.attn.k_norm.bias'] == (64,)
    assert shapes['camera_head.poseLN_modulation.1.weight'] == (6144, 2048)
    assert shapes['depth_head.scratch.output_conv2.2.weight'] == (2, 32, 1, 1)
    assert shapes['point_head.resize_layers.3.weight'] == (1024, 1024, 3, 3)
    assert shapes['track_head.tracker.updateformer.virual_tracks'] == (1, 64, 1, 384)
    assert 'depth_head.scratch.refinenet4.resConfUnit1.conv1.weight' not in shapes


@pytest.mark.parametrize(('point', 'track'), [(False, False), (True, False), (False, True)])
def test_optional_heads_can_be_left_out(point: bool, track: bool) -> None:
    with torch.device('meta'):
        keys = VGGT(VGGTConfig.vggt_1b(point_head=point, track_head=track)).state_dict()
    assert any(key.startswith('point_head.') for key in keys) == point
    assert any(key.startswith('track_head.') for key in keys) == track


@pytest.mark.parametrize('size', [SMALL_SIZE, (21, 49), (7, 7), (35, 14)])
@pytest.mark.parametrize('frames', [1, 3])
def test_outputs_have_the_published_names_and_shapes(
    model: VGGT, size: tuple[int, int], frames: int
) -> None:
    out = model(images_of(frames, size, batch=2))
    assert {name: tuple(value.shape) for name, value in out.items()} == {
        'pose_enc': (2, frames, 9),
        'depth': (2, frames, *size, 1),
        'depth_conf': (2, frames, *size),
        'world_points': (2, frames, *size, 3),
        'world_points_conf': (2, frames, *size),
    }
    assert (out['depth'] > 0).all() and (out['depth_conf'] >= 1).all()
    assert (out['pose_enc'][..., 7:] >= 0).all()


@pytest.mark.parametrize('patch', [8, 16])
def test_any_patch_size_works(patch: int) -> None:
    config = replace(SMALL, patch_size=patch, pretrain_height=3 * patch, pretrain_width=4 * patch)
    out = lively(config)(torch.rand(1, 2, 3, 3 * patch, 4 * patch))
    assert out['depth'].shape == (1, 2, 3 * patch, 4 * patch, 1)


@pytest.mark.parametrize('frames', [1, 2, 4])
def test_the_three_parts_give_the_numbers_of_the_whole(model: VGGT, frames: int) -> None:
    images = images_of(frames)
    whole = model(images)
    tokens = torch.cat([model.encode(images[0, [frame]]) for frame in range(frames)])
    pose_enc, taps = model.window(tokens[None])
    chosen = [frames - 1, 0]
    depth, conf = model.decode_depth([tap[0, chosen] for tap in taps])
    assert (pose_enc - whole['pose_enc']).abs().max() < SAME
    assert (depth - whole['depth'][0, chosen, ..., 0]).abs().max() < SAME
    assert (conf - whole['depth_conf'][0, chosen]).abs().max() < SAME


def test_chosen_depth_frames_are_those_of_all(model: VGGT) -> None:
    images = images_of(10, batch=2)  # more frames than are decoded at once
    whole, chosen = model(images), model(images, depth_frames=[7, 2])
    for name in ('depth', 'depth_conf', 'world_points', 'world_points_conf'):
        assert chosen[name].shape[1] == 2
        assert (chosen[name] - whole[name][:, [7, 2]]).abs().max() < SAME
    assert torch.equal(chosen['pose_enc'], whole['pose_enc'])


def test_windows_of_a_batch_do_not_see_each_other(model: VGGT) -> None:
    images = images_of(3, batch=2)
    together = model(images)
    for index in range(2):
        alone = model(images[index : index + 1])
        for name, value in alone.items():
            assert (value[0] - together[name][index]).abs().max() < SAME, name


def test_later_frames_may_come_in_any_order_but_not_the_first(model: VGGT) -> None:
    images, order = images_of(4), [0, 3, 1, 2]
    plain, permuted = model(images), model(images[:, order])
    for name, value in plain.items():
        assert (permuted[name] - value[:, order]).abs().max() < SAME, name
    swapped = model(images[:, [1, 0, 2, 3]])
    assert (swapped['pose_enc'] - plain['pose_enc'][:, [1, 0, 2, 3]]).abs().max() > 1e-3


def test_a_trace_holds_every_block_and_the_asked_queries(model: VGGT) -> None:
    trace = WindowTrace(qk_pair=2)
    images = images_of(3)
    out = model(images, trace=trace)
    tokens = SMALL.special_tokens + 20
    assert len(trace.block_tokens) == 2 * SMALL.aggregator_depth
    assert all(t.shape == (1, 3, tokens, SMALL.width) for t in trace.block_tokens)
    _, taps = model.window(model.encode(images[0])[None])
    last = torch.cat(trace.block_tokens[-2:], dim=-1)
    assert (last[:, :, SMALL.special_tokens :] - taps[-1]).abs().max() < SAME
    assert trace.query is not None and trace.key is not None
    assert trace.query.shape == trace.key.shape == (1, 2, 3 * tokens, SMALL.head_width)
    assert torch.equal(out['pose_enc'], model(images)['pose_enc'])


def test_traced_queries_and_keys_are_those_the_block_attends_with(model: VGGT) -> None:
    trace = WindowTrace(qk_pair=1)
    model(images_of(2), trace=trace)
    block = model.aggregator.global_blocks[1]
    assert isinstance(block, Block) and trace.query is not None and trace.key is not None
    before = trace.block_tokens[2].flatten(1, 2)
    value = block.attn.qkv(block.norm1(before))[..., 2 * SMALL.width :].unflatten(-1, (2, -1))
    weights = (trace.query @ trace.key.transpose(2, 3) / SMALL.head_width**0.5).softmax(-1)
    attended = (weights @ value.transpose(1, 2)).transpose(1, 2).flatten(2)
    x = before + block.ls1(block.attn.proj(attended))
    x = x + block.ls2(block.mlp(block.norm2(x)))
    assert (x - trace.block_tokens[3].flatten(1, 2)).abs().max() < SAME


def test_training_reaches_every_parameter_and_every_iteration() -> None:
    torch.manual_seed(0)
    model = VGGT(replace(SMALL, point_head=True)).train()
    out = model(torch.rand(1, 2, 3, *SMALL_SIZE), depth_frames=[1])
    assert len(out['pose_enc_list']) == SMALL.camera_iterations
    assert torch.equal(out['pose_enc_list'][-1], out['pose_enc'])
    loss = sum(pose.square().sum() for pose in out['pose_enc_list'])
    for name in ('depth', 'depth_conf', 'world_points', 'world_points_conf'):
        loss = loss + out[name].sum()
    loss.backward()
    unreached = {n for n, p in model.named_parameters() if p.grad is None or not p.grad.any()}
    assert unreached <= {'aggregator.patch_embed.mask_token'}


def test_a_new_network_starts_at_a_plain_camera() -> None:
    torch.manual_seed(0)
    pose = VGGT(SMALL).eval()(torch.rand(1, 2, 3, *SMALL_SIZE))['pose_enc']
    plain = torch.tensor([0, 0, 0, 0, 0, 0, 1, 1, 1.0])
    assert (pose - plain).abs().max() < 0.1


def test_wrong_sizes_are_refused_in_one_line(model: VGGT) -> None:
    with pytest.raises(UsageError, match='36x28'):
        model(torch.rand(1, 1, 3, 28, 36, dtype=torch.float64))
    with pytest.raises(UsageError, match='19 tokens per frame'):
        model.window(torch.rand(1, 2, 19, SMALL.width, dtype=torch.float64))


def test_points_without_a_point_head_are_refused() -> None:
    with pytest.raises(UsageError, match='no point head'):
        VGGT(SMALL).decode_points([torch.rand(1, 20, 64)] * 4)


def test_half_precision_stays_near_the_full_one() -> None:
    exact, images = lively(SMALL), torch.rand(1, 2, 3, *SMALL_SIZE)
    with torch.inference_mode():
        wanted = exact(images)
        with torch.autocast('cpu', torch.bfloat16):
            mixed = exact(images)
        half = lively(SMALL).to(torch.bfloat16)(images.to(torch.bfloat16))
    for name, value in wanted.items():
        for found in (mixed[name], half[name]):
            assert (found.float() - value).abs().max() < 0.15 * value.abs().max(), name
