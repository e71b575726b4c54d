# Copyright 2026 qvggt_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""The per-frame encoder: a DINOv2 vision transformer with registers (Darcet et al. 2024)."""

from __future__ import annotations

from functools import lru_cache

import torch
from torch import Tensor, nn

from qvggt_ros.vggt.config import VGGTConfig
from qvggt_ros.vggt.layers import Block
from qvggt_ros.vggt.positions import resize_learned

IMAGE_MEAN = (0.485, 0.456, 0.406)
IMAGE_STD = (0.229, 0.224, 0.225)
ENCODER_EPS = 1e-6


@lru_cache(maxsize=16)
def _channel_constants(dtype: torch.dtype, device: torch.device) -> tuple[Tensor, Tensor]:
    """Return mean and standard deviation, each [3, 1, 1]."""
    with torch.inference_mode(False):
        mean, std = (
            torch.tensor(values, dtype=torch.float64).to(device=device, dtype=dtype)[:, None, None]
            for values in (IMAGE_MEAN, IMAGE_STD)
        )
        return mean, std


class PatchProjection(nn.Module):
    """Cut an image into square patches and map each to a token."""

    def __init__(self, patch_size: int, width: int) -> None:
        super().__init__()
        self.proj = nn.Conv2d(3, width, kernel_size=patch_size, stride=patch_size)

    def forward(self, images: Tensor) -> Tensor:
        """Map [n, 3, H, W] to [n, P, width], patches row by row."""
        return self.proj(images).flatten(2).transpose(1, 2)


class Encoder(nn.Module):
    """Images to patch tokens, each frame by itself."""

    def __init__(self, config: VGGTConfig) -> None:
        super().__init__()
        self.config = config
        width = config.width
        rows, columns = config.pretrain_grid
        self.patch_embed = PatchProjection(config.patch_size, width)
        self.cls_token = nn.Parameter(torch.zeros(1, 1, width))
        self.pos_embed = nn.Parameter(torch.zeros(1, 1 + rows * columns, width))
        if config.encoder_registers:
            self.register_tokens = nn.Parameter(torch.zeros(1, config.encoder_registers, width))
        # Only masked pre-training uses it; published checkpoints carry it.
        self.mask_token = nn.Parameter(torch.zeros(1, width))
        self.blocks = nn.ModuleList(
            Block(
                width,
                config.heads,
                mlp_ratio=config.mlp_ratio,
                eps=ENCODER_EPS,
                layer_scale_init=config.layer_scale_init,
            )
            for _ in range(config.encoder_depth)
        )
        self.norm = nn.LayerNorm(width, eps=ENCODER_EPS)

    def tables(self, height: int, width: int) -> tuple[Tensor, Tensor]:
        """Return what depends on weights and image size alone.

        Returns:
            The tokens before the patches [1, 1 + registers, D] (class token with its position,
            registers without) and the patches' positions [1, P, D].

        """
        config = self.config
        first = [self.cls_token + self.pos_embed[:, :1]]
        if config.encoder_registers:
            first.append(self.register_tokens)
        positions = resize_learned(
            self.pos_embed[:, 1:], config.pretrain_grid, config.grid(height, width)
        )
        return torch.cat(first, dim=1), positions

    def forward(self, images: Tensor, tables: tuple[Tensor, Tensor] | None = None) -> Tensor:
        """Encode frames.

        Args:
            images: [n, 3, H, W] in [0, 1], RGB.
            tables: what `tables(H, W)` returns, where it was kept as a constant.

        Returns:
            Patch tokens [n, P, D].

        """
        x = self.embed(images, tables)
        for block in self.blocks:
            x = block(x)
        return self.finish(x)

    def embed(self, images: Tensor, tables: tuple[Tensor, Tensor] | None = None) -> Tensor:
        """Return what the first block reads: [n, 1 + registers + P, D]."""
        if tables is None:
            tables = self.tables(images.shape[-2], images.shape[-1])
        first, positions = tables
        mean, std = _channel_constants(images.dtype, images.device)
        patches = self.patch_embed((images - mean) / std) + positions
        first = first.to(patches.dtype).expand(patches.shape[0], -1, -1)
        return torch.cat([first, patches], dim=1)

    def finish(self, x: Tensor) -> Tensor:
        """Return the patch tokens [n, P, D] of what the last block wrote."""
        return self.norm(x[:, 1 + self.config.encoder_registers :])
