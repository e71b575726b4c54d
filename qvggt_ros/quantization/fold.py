# Copyright 2026 qvggt_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Move exact transforms into a network's weights, so that running it costs nothing more.

What changes is the basis in which tokens are kept, never the function: LayerScale goes into the
projection before it, a norm's affine part into the layers after it, a rotation of the residual
stream into everything that writes and reads it, a rotation inside each head into the rows that
make V and the columns that read it. Computed in float64, rounded once to the weights' type.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable
from itertools import chain
from typing import cast

import torch
from torch import Tensor, nn

from qvggt_ros.quantization.hadamard import block_diagonal, hadamard, mean_keeping_rotation
from qvggt_ros.quantization.seams import Seam, head_seams, value_seam
from qvggt_ros.vggt import VGGT
from qvggt_ros.vggt.layers import Attention, Block, LayerScale

AffineLayer = nn.Linear | nn.Conv2d
# Keeps a balance finite where a channel is not used at all.
LEAST_NORM = 1e-12


class HalvesRotation(nn.Module):
    """Turns both halves of [..., 2D] back out of a rotated basis, then scales and shifts.

    What follows works channel by channel, so the basis must be the original one there.
    """

    def __init__(self, rotation: Tensor, weight: Tensor, bias: Tensor) -> None:
        super().__init__()
        self.register_buffer('back', rotation.T.contiguous().to(weight.dtype))
        self.weight = nn.Parameter(weight.detach().clone(), requires_grad=False)
        self.bias = nn.Parameter(bias.detach().clone(), requires_grad=False)

    def forward(self, x: Tensor) -> Tensor:
        """Map [..., 2D] to the same shape."""
        back = cast(Tensor, self.back)
        return (x.unflatten(-1, (2, back.shape[0])) @ back).flatten(-2) * self.weight + self.bias


def fold_layer_scale(model: VGGT, in_place: bool = False) -> VGGT:
    """Return a copy (or the network itself) whose LayerScales are part of the projections."""
    model = _own(model, in_place)
    for block in all_blocks(model):
        for name, layer in (('ls1', block.attn.proj), ('ls2', block.mlp.fc2)):
            scale = getattr(block, name)
            if isinstance(scale, LayerScale):
                _rewrite(layer, out=scale.gamma.double())
                setattr(block, name, nn.Identity())
    return model


def fold_rotation(model: VGGT, seed: int, in_place: bool = False) -> VGGT:
    """Return a copy (or the network itself) that keeps its tokens in rotated bases.

    Encoder and aggregator do; their LayerScales must be folded already. Norms lose their affine
    parts (to the layers after them), so a norm's weight is free to carry the smoothing of DSFQ.
    Two small products remain: the encoder's output goes from its basis to the aggregator's (D^2
    per patch and frame), camera tokens come back from it (2 D^2 per frame).
    """
    model = _own(model, in_place)
    aggregator, encoder = model.aggregator, model.aggregator.patch_embed
    width = model.config.width
    encoder_basis = mean_keeping_rotation(width, seed)
    basis = mean_keeping_rotation(width, seed + 1)
    with torch.no_grad():
        for block in _blocks(encoder.blocks):
            _rotate_block(block, encoder_basis)
        for block in _blocks(chain(aggregator.frame_blocks, aggregator.global_blocks)):
            _rotate_block(block, basis)
        for block in _blocks(model.camera_head.trunk):
            _rotate_block(block, None)
        _rewrite(encoder.patch_embed.proj, out=encoder_basis.T)
        for table in (encoder.cls_token, encoder.pos_embed, encoder.register_tokens):
            table.copy_(table.double() @ encoder_basis)
        for table in (aggregator.camera_token, aggregator.register_token):
            table.copy_(table.double() @ basis)
        _change_basis_after_encoder(model, encoder_basis, basis)
        _leave_basis_before_heads(model, basis)
    return model


def added_macs_share(model: VGGT, patches: int) -> float:
    """Return what `fold_rotation` leaves online, as a share of the blocks' products.

    Per frame: D^2 for each patch after the encoder and 2 D^2 before the camera head, against
    12 D^2 per token in each block of encoder and aggregator (attention not counted).
    """
    config = model.config
    encoder = config.encoder_depth * (1 + config.encoder_registers + patches)
    aggregator = 2 * config.aggregator_depth * (config.special_tokens + patches)
    return (patches + 2) / (12 * (encoder + aggregator))


def fold_head_rotation(model: VGGT, balance: bool, in_place: bool = False) -> VGGT:
    """Return a copy in which a Hadamard matrix mixes the channels of V within each head.

    Args:
        model: the network.
        balance: first even out the channels: each row of V against the column that reads it. An
            outlier channel would otherwise be spread over its whole head.
        in_place: change the network itself instead of a copy.

    """
    model = _own(model, in_place)
    with torch.no_grad():
        for block in all_blocks(model):
            attention = block.attn
            if balance:
                _balance(value_seam(block, slice(0, attention.proj.in_features)))
            mix = block_diagonal(
                hadamard(attention.proj.in_features // attention.heads), attention.heads
            )
            _rewrite_value_rows(attention, mix.T)
            _rewrite(attention.proj, into=mix)
    return model


def fold_head_balance(model: VGGT, in_place: bool = False) -> VGGT:
    """Return a copy (or the network itself) with balanced channels throughout the dense head.

    Cross-layer equalisation (Nagel et al. 2019): exact where nothing but a ReLU lies between.
    """
    model = _own(model, in_place)
    with torch.no_grad():
        for seam in head_seams(model.depth_head):
            _balance(seam)
    return model


def _own(model: VGGT, in_place: bool) -> VGGT:
    """Return what may be changed: a copy, where there is memory for two networks."""
    return model if in_place else copy.deepcopy(model)


def _balance(seam: Seam) -> None:
    """Give each channel rows and columns of equal norm.

    The factor is that of equation 7 with norms for maxima; whatever factor was hidden between the
    two layers before, however large, is gone afterwards.
    """
    made = seam.produced[0]
    rows = made.double().flatten(1).norm(dim=1) if made.ndim > 1 else made.double().abs()
    columns = sum(
        tensor.double().transpose(0, 1).flatten(1).square().sum(dim=1) for tensor in seam.consumed
    )
    assert isinstance(columns, Tensor)
    factors = (columns.sqrt().clamp(min=LEAST_NORM) / rows.clamp(min=LEAST_NORM)).sqrt()
    seam.scale(factors)


def all_blocks(model: VGGT) -> list[Block]:
    """Return the blocks of encoder, aggregator and camera trunk, in running order."""
    aggregator = model.aggregator
    pairs = zip(aggregator.frame_blocks, aggregator.global_blocks, strict=True)
    return _blocks(
        chain(aggregator.patch_embed.blocks, chain.from_iterable(pairs), model.camera_head.trunk)
    )


def _blocks(modules: Iterable[nn.Module]) -> list[Block]:
    return [cast(Block, module) for module in modules]


def _rotate_block(block: Block, basis: Tensor | None) -> None:
    """Let a block read and write tokens in a rotated basis; None folds its norms alone."""
    for norm, reader in ((block.norm1, block.attn.qkv), (block.norm2, block.mlp.fc1)):
        _absorb_norm(norm, [reader], basis)
    if basis is not None:
        _rewrite(block.attn.proj, out=basis.T)
        _rewrite(block.mlp.fc2, out=basis.T)


def _absorb_norm(norm: nn.LayerNorm, readers: Iterable[AffineLayer], basis: Tensor | None) -> None:
    """Move a norm's affine part, and the basis of what it reads, into the layers after it."""
    for layer in readers:
        bias = cast(Tensor, layer.bias)
        shift = layer.weight.flatten(1).double() @ norm.bias.double()
        bias.copy_(bias.double() + shift)
        gain = norm.weight.double()
        _rewrite(layer, into=gain if basis is None else gain[:, None] * basis)
    nn.init.ones_(norm.weight)
    nn.init.zeros_(norm.bias)


def _change_basis_after_encoder(model: VGGT, encoder_basis: Tensor, basis: Tensor) -> None:
    """Put one product after the encoder's last norm, which takes its affine part too."""
    norm = model.aggregator.patch_embed.norm
    change = nn.Linear(len(basis), len(basis), dtype=norm.weight.dtype, device=norm.weight.device)
    # A linear layer computes x W^T: W = (R_e^T diag(gamma) R_a)^T, bias = beta R_a.
    matrix = (encoder_basis.T * norm.weight.double()) @ basis
    change.weight.copy_(matrix.T)
    change.bias.copy_(norm.bias.double() @ basis)
    nn.init.ones_(norm.weight)
    nn.init.zeros_(norm.bias)
    model.aggregator.patch_embed.norm = nn.Sequential(norm, change.requires_grad_(False))  # type: ignore[assignment]


def _leave_basis_before_heads(model: VGGT, basis: Tensor) -> None:
    """Let the dense head read rotated taps; turn the camera tokens back after their norm."""
    depth, camera = model.depth_head, model.camera_head
    _absorb_norm(
        depth.norm,
        [cast(nn.Conv2d, layer) for layer in depth.projects],
        block_diagonal(basis, 2),
    )
    norm = camera.token_norm
    back = HalvesRotation(basis, norm.weight, norm.bias)
    nn.init.ones_(norm.weight)
    nn.init.zeros_(norm.bias)
    camera.token_norm = nn.Sequential(norm, back)  # type: ignore[assignment]
    _absorb_norm(camera.trunk_norm, [camera.pose_branch.fc1], None)


def _rewrite(layer: AffineLayer, into: Tensor | None = None, out: Tensor | None = None) -> None:
    """Replace W by out W into (and b by out b); a 1x1 or patch convolution counts as linear.

    A vector stands for the diagonal matrix with it.
    """
    with torch.no_grad():
        weight = layer.weight.double()
        shape = weight.shape
        if into is not None:
            flat = weight.flatten(1)
            weight = (flat * into if into.ndim == 1 else flat @ into).reshape(shape)
        if out is not None:
            weight = _left(out, weight.flatten(1)).reshape(shape)
            if layer.bias is not None:
                layer.bias.copy_(_left(out, layer.bias.double()[:, None])[:, 0])
        layer.weight.copy_(weight)


def _left(out: Tensor, columns: Tensor) -> Tensor:
    return out[:, None] * columns if out.ndim == 1 else out @ columns


def value_rows(attention: Attention) -> slice:
    """Return which rows of the packed qkv layer make V."""
    width = attention.proj.in_features
    return slice(2 * width, 3 * width)


def _rewrite_value_rows(attention: Attention, out: Tensor) -> None:
    """Replace V's rows W_v of the qkv layer by out W_v, and their bias."""
    rows = value_rows(attention)
    for parameter in (attention.qkv.weight, attention.qkv.bias):
        parameter[rows] = (out @ parameter[rows].double()).to(parameter.dtype)
