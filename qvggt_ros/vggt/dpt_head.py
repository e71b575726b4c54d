# Copyright 2026 qvggt_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Four taps to a dense map: the DPT decoder (Ranftl et al. 2021) as VGGT uses it."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from qvggt_ros.vggt.config import VGGTConfig
from qvggt_ros.vggt.positions import sine_table

DPT_EPS = 1e-5


class ResidualUnit(nn.Module):
    """Two 3x3 convolutions around a residual.

    The residual is the *rectified* input: the published weights were trained with an in-place
    ReLU on the unit's input.
    """

    def __init__(self, features: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(features, features, 3, padding=1)
        self.conv2 = nn.Conv2d(features, features, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        """Map [N, C, h, w] to the same shape."""
        positive = x.relu()
        return self.conv2(self.conv1(positive).relu()) + positive


class FusionBlock(nn.Module):
    """Add a finer tap to the coarser result, refine, enlarge to the next tap's size."""

    def __init__(self, features: int, has_skip: bool) -> None:
        super().__init__()
        self.resConfUnit1 = ResidualUnit(features) if has_skip else None
        self.resConfUnit2 = ResidualUnit(features)
        self.out_conv = nn.Conv2d(features, features, 1)

    def forward(self, x: Tensor, skip: Tensor | None, size: tuple[int, int]) -> Tensor:
        """Map [N, C, h, w] and the skip of the same shape to [N, C, *size]."""
        if self.resConfUnit1 is not None:
            x = x + self.resConfUnit1(skip)
        return self.out_conv(resize(self.resConfUnit2(x), size))


class Scratch(nn.Module):
    """The fusion stages; the name is that of the published state dict."""

    def __init__(
        self, channels: Sequence[int], features: int, hidden: int, out_channels: int
    ) -> None:
        super().__init__()
        self.layer1_rn, self.layer2_rn, self.layer3_rn, self.layer4_rn = (
            nn.Conv2d(c, features, 3, padding=1, bias=False) for c in channels
        )
        self.refinenet1 = FusionBlock(features, has_skip=True)
        self.refinenet2 = FusionBlock(features, has_skip=True)
        self.refinenet3 = FusionBlock(features, has_skip=True)
        self.refinenet4 = FusionBlock(features, has_skip=False)
        if out_channels:
            self.output_conv1 = nn.Conv2d(features, features // 2, 3, padding=1)
            self.output_conv2 = nn.Sequential(
                nn.Conv2d(features // 2, hidden, 3, padding=1),
                nn.ReLU(),
                nn.Conv2d(hidden, out_channels, 1),
            )
        else:
            self.output_conv1 = nn.Conv2d(features, features, 3, padding=1)


class DPTHead(nn.Module):
    """Dense decoder of one quantity; frames are independent of each other.

    Args:
        config: sizes of taps and stages.
        out_channels: channels of the map, or 0 for a head that ends in features (tracking).
        features: fusion channels, if other than the config's.

    """

    def __init__(self, config: VGGTConfig, out_channels: int, features: int | None = None) -> None:
        super().__init__()
        self.config = config
        width = 2 * config.width
        c0, c1, _, c3 = config.dpt_channels
        self.norm = nn.LayerNorm(width, eps=DPT_EPS)
        self.projects = nn.ModuleList(nn.Conv2d(width, c, 1) for c in config.dpt_channels)
        self.resize_layers = nn.ModuleList(
            [
                nn.ConvTranspose2d(c0, c0, 4, stride=4),
                nn.ConvTranspose2d(c1, c1, 2, stride=2),
                nn.Identity(),
                nn.Conv2d(c3, c3, 3, stride=2, padding=1),
            ]
        )
        self.scratch = Scratch(
            config.dpt_channels, features or config.dpt_features, config.dpt_hidden, out_channels
        )

    def forward(self, taps: Sequence[Tensor], size: tuple[int, int]) -> Tensor:
        """Decode frames.

        Args:
            taps: four tensors [N, P, 2D].
            size: the image's height and width in pixels.

        Returns:
            Raw map [N, out_channels, H, W], before any activation.

        """
        aspect = size[1] / size[0]
        fused = self._fuse([self._pyramid_level(k, taps[k], size) for k in range(4)])
        full = resize(self.scratch.output_conv1(fused), size)
        return self.scratch.output_conv2(_with_positions(full, aspect))

    def _pyramid_level(self, k: int, tap: Tensor, size: tuple[int, int]) -> Tensor:
        """Return tap k as a feature map at 4, 2, 1 or 1/2 times the patch grid."""
        grid = self.config.grid(*size)
        image = self.norm(tap).transpose(1, 2).unflatten(2, grid)
        return self.resize_layers[k](_with_positions(self.projects[k](image), size[1] / size[0]))

    def _fuse(self, levels: Sequence[Tensor]) -> Tensor:
        """Fuse from the coarsest level to the finest, then double the size."""
        s = self.scratch
        l1, l2 = s.layer1_rn(levels[0]), s.layer2_rn(levels[1])
        l3, l4 = s.layer3_rn(levels[2]), s.layer4_rn(levels[3])
        x = s.refinenet4(l4, None, _size(l3))
        x = s.refinenet3(x, l3, _size(l2))
        x = s.refinenet2(x, l2, _size(l1))
        return s.refinenet1(x, l1, (2 * l1.shape[2], 2 * l1.shape[3]))


def resize(x: Tensor, size: tuple[int, int]) -> Tensor:
    """Resize [N, C, h, w] bilinearly so that the corners' pixels keep their places."""
    return functional.interpolate(x, size=size, mode='bilinear', align_corners=True)


def activate_depth(raw: Tensor) -> tuple[Tensor, Tensor]:
    """Return z-depth [N, H, W] > 0 and confidence [N, H, W] >= 1 of a raw map [N, 2, H, W]."""
    return raw[:, 0].exp(), 1 + raw[:, 1].exp()


def activate_points(raw: Tensor) -> tuple[Tensor, Tensor]:
    """Return points [N, H, W, 3] and confidence [N, H, W] >= 1 of a raw map [N, 4, H, W]."""
    log_points = raw[:, :3].permute(0, 2, 3, 1)
    return log_points.sign() * log_points.abs().expm1(), 1 + raw[:, 3].exp()


def _size(x: Tensor) -> tuple[int, int]:
    return x.shape[2], x.shape[3]


def _with_positions(x: Tensor, aspect: float) -> Tensor:
    """Add the sine/cosine table to a feature map."""
    dtype = torch.float64 if x.dtype == torch.float64 else torch.float32
    return x + sine_table(x.shape[1], _size(x), aspect, dtype, x.device).to(x.dtype)
