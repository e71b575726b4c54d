# Copyright 2026 qvggt_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""The layer that stands in for a linear layer or convolution and computes with few bits.

y = Q_a(x R / c) . Q_w(c R^T W^T) + b: R and c as the plan says; what is folded elsewhere has been
taken out of the layer. In simulation the integers are whole numbers held in floats, so products
are what integer hardware computes, up to the rounding of the float accumulator.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from qvggt_ros.quantization.hadamard import hadamard, kronecker_factors, rotate_online
from qvggt_ros.quantization.quantizer import (
    fake_quantise,
    fake_quantise_tokens,
    fake_quantise_twice,
    step_of,
    to_integers,
    weight_blocks,
)
from qvggt_ros.quantization.recipe import NONE, STATIC, TOKEN, LayerPlan
from qvggt_ros.vggt import VGGT

Source = nn.Linear | nn.Conv2d | nn.ConvTranspose2d


class QuantisedLayer(nn.Module):
    """A linear layer or convolution with its plan; float until `enabled`.

    Attributes:
        weight: float weights after rotation, before smoothing, laid out [out, ...].
        smooth: c [inputs], 1 where nothing is smoothed or where c has been folded away.
        weight_clip: [out, blocks, 1] share of each range that is kept.
        activation_step: the static step, or the clipping share of each token's range.
        activation_offset: whole number that is subtracted from a static input's integers, for
            inputs that lie mostly on one side of zero.
        rounded: integers [out, inputs] in place of rounding to nearest; empty if there are none.
        integers, integer_steps: the weights once `settle` has rounded them for good, int8 in the
            weights' layout and [out, blocks, 1]; empty before.

    """

    weight: Tensor
    smooth: Tensor
    weight_clip: Tensor
    activation_step: Tensor
    activation_offset: Tensor
    rounded: Tensor
    integers: Tensor
    integer_steps: Tensor

    def __init__(self, source: Source, plan: LayerPlan) -> None:
        super().__init__()
        self.plan = plan
        self.enabled = False
        # Not a sub-module: only its hyper-parameters are of use.
        self._geometry = _geometry(source)
        self.learned_bias: Tensor | None = None  # while the learned stage tries other ones
        self.transposed = isinstance(source, nn.ConvTranspose2d)
        weight = source.weight.detach().clone()
        self.weight = nn.Parameter(
            weight.transpose(0, 1).contiguous() if self.transposed else weight,
            requires_grad=False,
        )
        self.bias = (
            None
            if source.bias is None
            else nn.Parameter(source.bias.detach().clone(), requires_grad=False)
        )
        self.inputs = self.weight.shape[1]  # channels
        # Where corrections start from; not a part of the state.
        self.float_bias = None if self.bias is None else self.bias.detach().clone()
        if plan.hadamard:
            self._add_rotation()
        blocks = 1 if plan.weight_block is None else self.inputs // plan.weight_block
        self.register_buffer('smooth', weight.new_ones(self.inputs))
        self.register_buffer('weight_clip', weight.new_ones(len(self.weight), blocks, 1))
        self.register_buffer('activation_step', weight.new_ones(()))
        self.register_buffer('activation_offset', weight.new_zeros(()))
        self.register_buffer('rounded', torch.zeros(0, dtype=torch.int8))
        self.register_buffer('integers', torch.zeros(0, dtype=torch.int8))
        self.register_buffer('integer_steps', weight.new_zeros(0))

    @property
    def in_features(self) -> int:
        """Input channels, under the name that linear layers have for them."""
        return self.inputs

    def _add_rotation(self) -> None:
        """Rotate the input as it comes, the weights for good."""
        left, right = (hadamard(side) for side in kronecker_factors(self.inputs))
        rotated = self.weight.double() @ torch.kron(left, right)
        with torch.no_grad():
            self.weight.copy_(rotated)
        self.register_buffer('left', left.to(self.weight.dtype))
        self.register_buffer('right', right.to(self.weight.dtype))

    def forward(self, x: Tensor) -> Tensor:
        """Compute the layer, with few bits if `enabled`."""
        x = self.prepared(x)
        if not (self.enabled or len(self.integers)):
            return self.product(x, self.smoothed_weight())
        return self.product(self.quantised_input(x), self.quantised_weight())

    def prepared(self, x: Tensor) -> Tensor:
        """Return the input after rotation and smoothing, as it is quantised."""
        x = self.rotated(x)
        return x if self.plan.smoothing == NONE else x / self.smooth

    def rotated(self, x: Tensor) -> Tensor:
        """Return the input after the rotation that is left online, if there is one."""
        if not self.plan.hadamard:
            return x
        return rotate_online(x, cast(Tensor, self.left), cast(Tensor, self.right))

    def smoothed_weight(self) -> Tensor:
        """Return c W, the weights that belong to smoothed inputs."""
        if self.plan.smoothing == NONE:
            return self.weight
        return self.weight * self.smooth

    def quantised_input(self, x: Tensor) -> Tensor:
        """Return the values that a prepared input's integers stand for."""
        bits = self.plan.activation_bits
        if self.plan.in_two_parts:
            return fake_quantise_twice(x, self.activation_step)
        if self.plan.activation == STATIC:
            shift = self.activation_offset * self.activation_step
            return fake_quantise(x - shift, self.activation_step, bits) + shift
        if self.plan.activation == TOKEN:
            return fake_quantise_tokens(
                x, self.activation_step, bits, self.plan.activation_block, self.plan.offset
            )
        return x

    def weight_steps(self, weight: Tensor) -> Tensor:
        """Return the steps [out, blocks, 1] of smoothed weights."""
        largest = weight_blocks(weight, self.plan.weight_block).abs().amax(dim=-1, keepdim=True)
        return step_of(self.weight_clip * largest, self.plan.weight_bits)

    def quantised_weight(self) -> Tensor:
        """Return the values that the weights' integers stand for, in the weights' shape."""
        if len(self.integers):
            blocks = weight_blocks(self.integers, self.plan.weight_block)
            return (blocks * self.integer_steps).reshape(self.integers.shape)
        weight = self.smoothed_weight()
        blocks = weight_blocks(weight, self.plan.weight_block)
        steps = self.weight_steps(weight)
        if len(self.rounded):
            integers = weight_blocks(self.rounded, self.plan.weight_block).to(weight.dtype)
            return (integers * steps).reshape(weight.shape)
        return fake_quantise(blocks, steps, self.plan.weight_bits).reshape(weight.shape)

    @torch.no_grad()
    def integer_weight(self) -> tuple[Tensor, Tensor]:
        """Return the weights as int8 [out, ...] and their steps [out, blocks]."""
        if len(self.integers):
            return self.integers, self.integer_steps[..., 0]
        weight = self.smoothed_weight()
        steps = self.weight_steps(weight)
        if len(self.rounded):
            return self.rounded, steps[..., 0]
        integers = to_integers(
            weight_blocks(weight, self.plan.weight_block), steps, self.plan.weight_bits
        )
        return integers.reshape(weight.shape).to(torch.int8), steps[..., 0]

    @torch.no_grad()
    def settle(self) -> None:
        """Round the weights for good and let go of the float ones: a quarter of the memory.

        The layer computes with few bits from then on, whatever `enabled` says.
        """
        integers, steps = self.integer_weight()
        self.integers, self.integer_steps = integers, steps[..., None].clone()
        self.rounded = self.rounded[:0]
        self.weight = nn.Parameter(self.weight.new_zeros(0), requires_grad=False)

    @torch.no_grad()
    def divide_rows(self, rows: slice, factors: Tensor) -> None:
        """Divide some outputs' weights and biases; their integers stay the same, steps change."""
        if len(self.integers):
            self.integer_steps[rows] /= factors[:, None, None]
        else:
            self.weight[rows] /= factors[:, None]
        if self.bias is not None:
            self.bias[rows] /= factors

    @torch.no_grad()
    def absorb_smoothing(self) -> None:
        """Make c part of the weights, once something before the layer divides by c."""
        if not len(self.integers):  # those are of the smoothed weights already
            self.weight *= self.smooth
        self.smooth = torch.ones_like(self.smooth)
        self.plan = replace(self.plan, smoothing=NONE)

    def product(self, x: Tensor, weight: Tensor) -> Tensor:
        """Apply weights [out, ...] to an input, with the layer's own bias and geometry."""
        bias = self.bias if self.learned_bias is None else self.learned_bias
        if self._geometry is None:
            return functional.linear(x, weight, bias)
        stride, padding = self._geometry
        if self.transposed:
            return functional.conv_transpose2d(x, weight.transpose(0, 1), bias, stride, padding)
        return functional.conv2d(x, weight, bias, stride, padding)


def _geometry(source: Source) -> tuple[tuple[int, ...], tuple[int, ...]] | None:
    """Return stride and padding of a convolution; None for a linear layer."""
    if isinstance(source, nn.Linear):
        return None
    return tuple(source.stride), tuple(cast('tuple[int, ...]', source.padding))


def replace_layers(model: VGGT, plans: dict[str, LayerPlan]) -> dict[str, QuantisedLayer]:
    """Put a `QuantisedLayer` in the place of every planned layer, in the network itself."""
    replaced: dict[str, QuantisedLayer] = {}
    for name, plan in plans.items():
        if plan.weight_bits >= 16:
            continue
        parent, _, leaf = name.rpartition('.')
        owner = model.get_submodule(parent)
        layer = QuantisedLayer(cast(Source, getattr(owner, leaf)), plan)
        setattr(owner, leaf, layer)
        replaced[name] = layer
    return replaced


def quantised_layers(module: nn.Module) -> Iterator[tuple[str, QuantisedLayer]]:
    """Return a network's quantised layers with their names."""
    for name, child in module.named_modules():
        if isinstance(child, QuantisedLayer):
            yield name, child


def enable(module: nn.Module, enabled: bool) -> None:
    """Let all layers compute with few bits, or in float."""
    for _, layer in quantised_layers(module):
        layer.enabled = enabled
