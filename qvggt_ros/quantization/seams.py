# Copyright 2026 qvggt_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Where a network's channels can be scaled without a change of what it computes."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor, nn

from qvggt_ros.vggt import VGGT
from qvggt_ros.vggt.dpt_head import DPTHead, ResidualUnit
from qvggt_ros.vggt.layers import Block

Layer = nn.LayerNorm | nn.Linear | nn.Conv2d | nn.ConvTranspose2d


@dataclass(frozen=True)
class Seam:
    """Channels on their way from one layer to the next, with nothing in between but a ReLU.

    Scaling a channel where it is produced and unscaling it where it is consumed is exact.

    Attributes:
        produced: views whose first axis is the channel: gains, biases, weight rows.
        consumed: views whose second axis is the channel: weight columns.

    """

    produced: tuple[Tensor, ...]
    consumed: tuple[Tensor, ...]

    def scale(self, factors: Tensor) -> None:
        """Multiply the channels [C] between the two layers by positive factors [C]."""
        for tensor in self.produced:
            tensor.mul_(_along(factors, tensor, 0))
        for tensor in self.consumed:
            tensor.div_(_along(factors, tensor, 1))

    def magnify(self, channel: int, middle: float, factor: float, reader_bias: Tensor) -> None:
        """Turn one channel's values y into factor * (y - middle), and let the reader undo it.

        For seams without a ReLU, whose `produced` are a weight and a bias.
        """
        reader_bias.add_(middle * self.consumed[0][:, channel])
        self.produced[1][channel] -= middle
        factors = torch.ones(len(self.produced[0]), dtype=torch.float64)
        factors[channel] = factor
        self.scale(factors)


def model_seams(model: VGGT) -> Iterator[Seam]:
    """Yield every place of a network where channels can be scaled exactly."""
    yield from aggregator_seams(model)
    camera = model.camera_head
    for block in camera.trunk:
        yield from block_seams(cast(Block, block))
    yield between(camera.trunk_norm, camera.pose_branch.fc1)
    for head in model.modules():
        if isinstance(head, DPTHead):
            yield from head_seams(head)


def aggregator_seams(model: VGGT) -> Iterator[Seam]:
    """Yield the places in the blocks of encoder and aggregator."""
    for block in model.aggregator.modules():
        if isinstance(block, Block):
            yield from block_seams(block)


def block_seams(block: Block) -> Iterator[Seam]:
    """Yield both norms' outputs and the values that are attended.

    Attention averages values over tokens, channel by channel, which a factor passes through.
    """
    yield between(block.norm1, block.attn.qkv)
    yield between(block.norm2, block.mlp.fc1)
    yield value_seam(block, slice(0, block.attn.proj.in_features))


def head_seams(head: DPTHead) -> Iterator[Seam]:
    """Yield the shared norm's output, the resized taps, and all hidden layers.

    Not the projected taps: a table of positions is added to them, whose scale is fixed.
    """
    projects = [cast(nn.Conv2d, project) for project in head.projects]
    yield Seam((head.norm.weight, head.norm.bias), tuple(p.weight for p in projects))
    stages = head.scratch
    readers = (stages.layer1_rn, stages.layer2_rn, stages.layer3_rn, stages.layer4_rn)
    for resize, reader in zip(head.resize_layers, readers, strict=True):
        if isinstance(resize, (nn.Conv2d, nn.ConvTranspose2d)):
            yield between(resize, reader)
    for unit in stages.modules():
        if isinstance(unit, ResidualUnit):
            yield between(unit.conv1, unit.conv2)
    last = getattr(stages, 'output_conv2', None)  # a head that ends in features has none
    if isinstance(last, nn.Sequential):
        yield between(cast(nn.Conv2d, last[0]), cast(nn.Conv2d, last[2]))


def between(producer: Layer, consumer: nn.Linear | nn.Conv2d) -> Seam:
    """Return the seam from a norm, linear or convolution to the next linear or convolution."""
    weight: Tensor = producer.weight
    if isinstance(producer, nn.ConvTranspose2d):
        weight = weight.transpose(0, 1)
    produced = (weight,) if producer.bias is None else (weight, producer.bias)
    return Seam(produced, (consumer.weight,))


def value_seam(block: Block, channels: slice) -> Seam:
    """Return the seam of some of the values, e.g. one head's, from qkv to the projection."""
    qkv, proj = block.attn.qkv, block.attn.proj
    _, _, weight = qkv.weight.chunk(3)
    _, _, bias = qkv.bias.chunk(3)
    return Seam((weight[channels], bias[channels]), (proj.weight[:, channels],))


def _along(factors: Tensor, tensor: Tensor, axis: int) -> Tensor:
    """Shape factors [C] so that they multiply `tensor` along an axis."""
    shape = [1] * tensor.ndim
    shape[axis] = -1
    return factors.to(tensor).reshape(shape)
