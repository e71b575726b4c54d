# Copyright 2026 qvggt_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Smoothing: factors that even out the ranges of input channels, and where they go in the end."""

from __future__ import annotations

from typing import cast

from torch import Tensor, nn

from qvggt_ros.quantization.fold import all_blocks, value_rows
from qvggt_ros.quantization.layers import QuantisedLayer
from qvggt_ros.vggt import VGGT
from qvggt_ros.vggt.layers import Block


def smoothing_factors(largest: Tensor, weight: Tensor, power: float) -> Tensor:
    """Return c = max|x|^a / max|W|^(1-a) per input channel (QuantVGGT, equation 7).

    Both maxima are taken of what is multiplied in the end: rotated inputs, rotated weights.
    """
    read = weight.transpose(0, 1).flatten(1).abs().amax(dim=1)
    factors = largest.clamp(min=1e-5) ** power / read.clamp(min=1e-5) ** (1 - power)
    # Only ratios matter: around 1, numbers stay in the middle of the floats' range.
    return (factors / factors.log().mean().exp()).clamp(min=1e-5)


def fold_smoothing(model: VGGT) -> None:
    """Move the smoothing factors into norms and V, in place; the function stays the same."""
    for block in all_blocks(model):
        _fold_into_norm(block.norm1, block.attn.qkv)
        _fold_into_norm(block.norm2, block.mlp.fc1)
        _fold_into_value(block)


def _fold_into_norm(norm: nn.LayerNorm, layer: nn.Module) -> None:
    if isinstance(layer, QuantisedLayer) and layer.plan.smoothing == 'norm':
        norm.weight.data /= layer.smooth
        norm.bias.data /= layer.smooth
        layer.absorb_smoothing()


def _fold_into_value(block: Block) -> None:
    """Divide the rows that make V; each has a step of its own, so its integers stay the same."""
    proj, qkv = cast(nn.Module, block.attn.proj), cast(QuantisedLayer, block.attn.qkv)
    if isinstance(proj, QuantisedLayer) and proj.plan.smoothing == 'value':
        rows = value_rows(block.attn)
        qkv.divide_rows(rows, proj.smooth)  # no precision quantises the one without the other
        proj.absorb_smoothing()
