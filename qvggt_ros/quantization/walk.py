# Copyright 2026 qvggt_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""The network as a sequence of steps, so that it can be calibrated one block at a time.

Only what the next step reads is kept of a window: its tokens, and the taps and camera tokens as
far as they have been made.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor, nn

from qvggt_ros.vggt import VGGT


@dataclass(frozen=True)
class WalkState:
    """Some windows on their way through the network.

    Attributes:
        x: what the next step reads: images [B, S, 3, H, W], encoder tokens [B * S, L, D], or
            aggregator tokens [B, S, T, D].
        in_frame: the last frame block's output, until the global block has answered.
        taps: tapped layers so far, [B, S, P, 2D] each.
        pose_enc, raw_depth: the answers, once the heads have run.

    """

    x: Tensor
    in_frame: Tensor | None = None
    taps: tuple[Tensor, ...] = ()
    camera_tokens: Tensor | None = None
    pose_enc: Tensor | None = None
    raw_depth: Tensor | None = field(default=None)


@dataclass(frozen=True)
class Step:
    """One part of the network.

    Attributes:
        name: the module's name, or that of the modules' parent.
        modules: names of the modules that it runs.
        run: carries a state on.
        block: whether it is a transformer block of encoder or aggregator, x in, x out.
        special: tokens at the start of each frame that are no patches; None where rows have no
            such order.
        frame_tokens: tokens per frame.

    """

    name: str
    modules: tuple[str, ...]
    run: Callable[[WalkState], WalkState]
    block: bool = False
    special: int | None = None
    frame_tokens: int = 0


def walk_steps(model: VGGT, size: tuple[int, int], frames: int) -> list[Step]:
    """Return the steps in running order.

    Args:
        model: the network; steps run its modules as they are when called.
        size: the images' height and width.
        frames: per window.

    """
    encoder = 'aggregator.patch_embed'
    steps = [Step(f'{encoder}.patch_embed', (f'{encoder}.patch_embed',), _embed(model))]
    for index in range(model.config.encoder_depth):
        name = f'{encoder}.blocks.{index}'
        steps.append(Step(name, (name,), _encoder_block(model, index), block=True))
    steps.append(Step(f'{encoder}.norm', (f'{encoder}.norm',), _finish(model, frames)))
    rows, columns = model.config.grid(*size)
    special = model.config.special_tokens
    for index in range(model.config.aggregator_depth):
        for kind, make in (('frame', _frame_block), ('global', _global_block)):
            name = f'aggregator.{kind}_blocks.{index}'
            run = make(model, index, (rows, columns))
            steps.append(Step(name, (name,), run, True, special, special + rows * columns))
    steps.append(Step('camera_head', ('camera_head',), _camera(model)))
    steps.append(Step('depth_head', ('depth_head',), _depth(model, size)))
    return steps


def _embed(model: VGGT) -> Callable[[WalkState], WalkState]:
    def run(state: WalkState) -> WalkState:
        return replace(state, x=model.aggregator.patch_embed.embed(state.x.flatten(0, 1)))

    return run


def _encoder_block(model: VGGT, index: int) -> Callable[[WalkState], WalkState]:
    def run(state: WalkState) -> WalkState:
        return replace(state, x=model.aggregator.patch_embed.blocks[index](state.x))

    return run


def _finish(model: VGGT, frames: int) -> Callable[[WalkState], WalkState]:
    def run(state: WalkState) -> WalkState:
        tokens = model.aggregator.patch_embed.finish(state.x).unflatten(0, (-1, frames))
        return replace(state, x=model.aggregator.with_special_tokens(tokens))

    return run


def _frame_block(
    model: VGGT, index: int, grid: tuple[int, int]
) -> Callable[[WalkState], WalkState]:
    def run(state: WalkState) -> WalkState:
        rope = model.aggregator.rope(grid, state.x)
        block: nn.Module = model.aggregator.frame_blocks[index]
        x = block(state.x.flatten(0, 1), rope).unflatten(0, (state.x.shape[0], -1))
        return replace(state, x=x, in_frame=x)

    return run


def _global_block(
    model: VGGT, index: int, grid: tuple[int, int]
) -> Callable[[WalkState], WalkState]:
    first_patch = model.config.special_tokens

    def run(state: WalkState) -> WalkState:
        assert state.in_frame is not None
        rope = model.aggregator.rope(grid, state.x)
        block: nn.Module = model.aggregator.global_blocks[index]
        x = block(state.x.flatten(1, 2), rope).unflatten(1, (-1, state.x.shape[2]))
        both = (state.in_frame, x)
        taps = state.taps
        if index in model.config.taps:
            taps = (*taps, torch.cat([part[:, :, first_patch:] for part in both], dim=-1))
        camera = torch.cat([part[:, :, 0] for part in both], dim=-1)
        return replace(state, x=x, in_frame=None, taps=taps, camera_tokens=camera)

    return run


def _camera(model: VGGT) -> Callable[[WalkState], WalkState]:
    def run(state: WalkState) -> WalkState:
        assert state.camera_tokens is not None
        return replace(state, pose_enc=model.camera_head(state.camera_tokens)[-1])

    return run


def _depth(model: VGGT, size: tuple[int, int]) -> Callable[[WalkState], WalkState]:
    def run(state: WalkState) -> WalkState:
        taps = [tap.flatten(0, 1) for tap in state.taps]
        return replace(state, raw_depth=model.depth_head(taps, size))

    return run
