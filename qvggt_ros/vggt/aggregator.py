# Copyright 2026 qvggt_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Alternating attention: within each frame, then among all frames (Wang et al. 2025, sec. 3.2)."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import NamedTuple, cast

import torch
from torch import Tensor, nn

from qvggt_ros.vggt.config import VGGTConfig
from qvggt_ros.vggt.encoder import Encoder
from qvggt_ros.vggt.layers import Block, RopeTables
from qvggt_ros.vggt.positions import rope_tables

AGGREGATOR_EPS = 1e-5


@dataclass
class WindowTrace:
    """Intermediate features, filled in by a forward pass that is given one; costs their memory.

    Attributes:
        qk_pair: the pair (counted from 0) whose global block's queries and keys are wanted.
        block_tokens: every block's output [B, S, T, D], in running order: frame 0, global 0,
            frame 1, ...
        query, key: [B, heads, S*T, head_width] of that global block, after norm and rotation.

    """

    qk_pair: int | None = None
    block_tokens: list[Tensor] = field(default_factory=list)
    query: Tensor | None = None
    key: Tensor | None = None


class AggregatorOutput(NamedTuple):
    """What the heads read.

    Attributes:
        camera_tokens: [B, S, 2D] of the last pair.
        taps: four tensors [B, S, P, 2D], patch tokens only.

    """

    camera_tokens: Tensor
    taps: list[Tensor]


class Aggregator(nn.Module):
    """The encoder (`patch_embed`) and the pairs of frame and global blocks after it."""

    def __init__(self, config: VGGTConfig) -> None:
        super().__init__()
        self.config = config
        width = config.width
        self.patch_embed = Encoder(config)
        # Index 0 is for the window's first frame, whose camera is the world; 1 for all others.
        self.camera_token = nn.Parameter(torch.zeros(1, 2, 1, width))
        self.register_token = nn.Parameter(torch.zeros(1, 2, config.aggregator_registers, width))
        self.frame_blocks = self._blocks()
        self.global_blocks = self._blocks()

    def _blocks(self) -> nn.ModuleList:
        config = self.config
        return nn.ModuleList(
            Block(
                config.width,
                config.heads,
                mlp_ratio=config.mlp_ratio,
                eps=AGGREGATOR_EPS,
                layer_scale_init=config.layer_scale_init,
                qk_norm=True,
            )
            for _ in range(config.aggregator_depth)
        )

    def rope(self, grid: tuple[int, int], x: Tensor) -> RopeTables:
        """Return the rotation tables of one frame's tokens; at least float32."""
        config = self.config
        dtype = torch.float64 if x.dtype == torch.float64 else torch.float32
        return rope_tables(
            grid, config.special_tokens, config.head_width, config.rope_base, dtype, x.device
        )

    def with_special_tokens(self, tokens: Tensor) -> Tensor:
        """Put camera and register tokens before the patches: [B, S, P, D] -> [B, S, T, D]."""
        special = torch.cat([self.camera_token, self.register_token], dim=2)[0]
        # An index, not a slice of S - 1 rows: one exported graph then serves S = 1 too.
        which = torch.arange(tokens.shape[1], device=tokens.device).clamp(max=1)
        per_frame = special.index_select(0, which).to(tokens.dtype)
        return torch.cat([per_frame.expand(tokens.shape[0], -1, -1, -1), tokens], dim=2)

    def forward(
        self, tokens: Tensor, grid: tuple[int, int], trace: WindowTrace | None = None
    ) -> AggregatorOutput:
        """Relate the frames of windows.

        Args:
            tokens: the encoder's patch tokens [B, S, P, D], first frame = reference.
            grid: patch rows and columns, P = rows * columns.
            trace: filled with intermediate features if given.

        """
        first_patch = self.config.special_tokens
        x = self.with_special_tokens(tokens)
        rope = self.rope(grid, x)
        batch = x.shape[0]
        taps = []
        for pair, (frame_block, global_block) in enumerate(
            zip(self.frame_blocks, self.global_blocks, strict=True)
        ):
            in_frame = frame_block(x.flatten(0, 1), rope).unflatten(0, (batch, -1))
            all_frames = in_frame.flatten(1, 2)
            x = global_block(all_frames, rope).unflatten(1, (-1, x.shape[2]))
            if pair in self.config.taps:
                taps.append(
                    torch.cat([in_frame[:, :, first_patch:], x[:, :, first_patch:]], dim=-1)
                )
            if trace is not None:
                trace.block_tokens += [in_frame, x]
                if pair == trace.qk_pair:
                    _record_query_key(trace, cast(Block, global_block), all_frames, rope)
        return AggregatorOutput(torch.cat([in_frame[:, :, 0], x[:, :, 0]], dim=-1), taps)


def _record_query_key(trace: WindowTrace, block: Block, tokens: Tensor, rope: RopeTables) -> None:
    """Recompute one block's queries and keys, so that the block itself stays plain."""
    query, key, _ = block.attn.query_key_value(block.norm1(tokens), rope)
    trace.query, trace.key = query.transpose(1, 2), key.transpose(1, 2)
