# Copyright 2026 qvggt_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Quantised layers as the operators that engines run: QuantizeLinear and DequantizeLinear.

Both ONNX Runtime and TensorRT recognise the pattern around a product and replace it by one
integer product. Only standard operators of opset 21 are used.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import cast

import torch
from torch import Tensor, nn

from qvggt_ros.errors import UsageError
from qvggt_ros.quantization.layers import QuantisedLayer, quantised_layers
from qvggt_ros.quantization.quantizer import FINER
from qvggt_ros.quantization.recipe import NONE, ONLINE, TOKEN
from qvggt_ros.vggt import VGGT

# Buffers of this name hold whole numbers of 4 bits; a pass after the export gives them that type.
INT4_BUFFER = 'weight_int4'
INT8_BUFFER = 'weight_int8'

Number = int | float | str | bool
Attributes = dict[str, Number | Sequence[int] | Sequence[float] | Sequence[str] | Sequence[bool]]


class EngineLayer(nn.Module):
    """A quantised layer whose forward pass spells its operators; for export alone."""

    weight_step: Tensor
    step: Tensor
    zero: Tensor
    scale: Tensor | None

    def __init__(self, layer: QuantisedLayer) -> None:
        super().__init__()
        plan = layer.plan
        if plan.activation == TOKEN or plan.smoothing not in (NONE, ONLINE) or plan.hadamard:
            raise UsageError(
                f'layer {plan.name}: {plan.activation} activations with smoothing '
                f'{plan.smoothing} and hadamard {plan.hadamard} are simulated only'
            )
        scaled = plan.smoothing == ONLINE
        self.register_buffer('scale', 1 / layer.smooth.detach() if scaled else None)
        self._layer = (layer,)  # a tuple: its weights must not be exported too
        self._plan = plan
        integers, steps = layer.integer_weight()
        self._as_product = integers.ndim == 2 or integers[0, 0].numel() == 1
        self._is_convolution = integers.ndim == 4
        self._weight_name = INT4_BUFFER if plan.weight_bits == 4 else INT8_BUFFER
        if self._as_product:
            integers = integers.flatten(1).T
            steps = steps.T if plan.weight_block else steps[:, 0]
        else:
            integers = integers.transpose(0, 1) if layer.transposed else integers
            steps = steps[:, 0]
        self._axis = 0 if plan.weight_block else self._channel_axis(layer)
        self.register_buffer(self._weight_name, integers.contiguous())
        self.register_buffer('weight_step', steps.contiguous())
        self.register_buffer('step', layer.activation_step.detach().clone())
        self.register_buffer('zero', (-layer.activation_offset.detach()).to(torch.int8))
        self.bias = layer.bias

    def _channel_axis(self, layer: QuantisedLayer) -> int:
        """Return which axis of the stored weights counts the output channels."""
        return 1 if self._as_product or layer.transposed else 0

    def forward(self, x: Tensor) -> Tensor:
        """Spell the layer."""
        if self._as_product and self._is_convolution:
            return self._product(x.movedim(1, -1)).movedim(-1, 1)
        if self._as_product:
            return self._product(x)
        (layer,) = self._layer
        weight = self._weight()
        return layer.product(
            self._input(x), weight.transpose(0, 1) if layer.transposed else weight
        )

    def _product(self, x: Tensor) -> Tensor:
        if self._plan.in_two_parts:
            y = self._two_parts(self._scaled(x))
        else:
            y = self._input(x) @ self._weight()
        return y if self.bias is None else y + self.bias

    def _input(self, x: Tensor) -> Tensor:
        x = self._scaled(x)
        return x if self._plan.activation == NONE else _rounded(x, self.step, self.zero)

    def _scaled(self, x: Tensor) -> Tensor:
        return x if self.scale is None else x * self.scale

    def _two_parts(self, x: Tensor) -> Tensor:
        """Multiply what 8 bits hold of the input and what 8 more hold of the rest, in one go.

        Runtimes multiply integers where a product's input is rounded just before it, and with one
        step; so both parts go through one rounding, which changes the second alone.
        """
        first = _rounded(x, self.step, self.zero)
        parts = torch.cat([first, (x - first) * FINER])
        products = _rounded(parts, self.step, self.zero) @ self._weight()
        coarse, fine = products.split([x.shape[0], x.shape[0]])
        return coarse + fine / FINER

    def _weight(self) -> Tensor:
        integers = cast(Tensor, getattr(self, self._weight_name))
        attributes: Attributes = {'axis': self._axis}
        if self._plan.weight_block:
            attributes['block_size'] = self._plan.weight_block
        return _operator(
            'DequantizeLinear',
            [integers, self.weight_step],
            integers.shape,
            self.weight_step.dtype,
            attributes,
        )


def _rounded(x: Tensor, step: Tensor, zero: Tensor) -> Tensor:
    """Spell the rounding of an input to integers of 8 bits."""
    integers = _operator('QuantizeLinear', [x, step, zero], x.shape, torch.int8)
    return _operator('DequantizeLinear', [integers, step, zero], x.shape, step.dtype)


def _operator(
    name: str,
    inputs: list[Tensor],
    shape: torch.Size,
    dtype: torch.dtype,
    attributes: Attributes | None = None,
) -> Tensor:
    return torch.onnx.ops.symbolic(
        name, inputs, attrs=attributes or {}, dtype=dtype, shape=shape, version=21
    )


def with_engine_layers(model: VGGT) -> VGGT:
    """Return a copy of a quantised network that exports as engines run it.

    Its smoothing must be folded (`smoothing.fold_smoothing`).

    Raises:
        UsageError: a layer's precision is simulated only; names the layer.

    """
    model = copy.deepcopy(model)
    for name, layer in list(quantised_layers(model)):
        parent, _, leaf = name.rpartition('.')
        setattr(model.get_submodule(parent), leaf, EngineLayer(layer))
    return model
