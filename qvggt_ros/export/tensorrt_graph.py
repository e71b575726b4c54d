# Copyright 2026 qvggt_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Rewrite a bundle's graph into what TensorRT is given: strongly typed, standard operators.

A bundle's graph is float32 with Q/DQ around its products and ONNX Runtime's own attention.
TensorRT is strongly typed: what the graph says is what is computed. So products and attention are
cast to a half type, while norms, residual stream, activations and the whole camera head stay in
float32; inputs are quantised symmetrically; attention becomes an operator that TensorRT fuses.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import cast

import ml_dtypes
import numpy as np
import onnx_ir
from numpy.typing import NDArray
from onnx_ir import DataType, Node, Value

from qvggt_ros.engine.built import ATTENTIONS
from qvggt_ros.errors import BundleError, UsageError
from qvggt_ros.export.graph_editor import GraphEditor

# Attention became a standard operator in this opset.
ATTENTION_OPSET = 23
PRODUCTS: tuple[str, ...] = ('MatMul', 'Conv', 'ConvTranspose')
FLOAT_PARTS = ('camera_head.',)  # weights of these stay in float32, and so does all that uses them
TYPES = {
    'float32': (DataType.FLOAT, np.dtype(np.float32)),
    'float16': (DataType.FLOAT16, np.dtype(np.float16)),
    'bfloat16': (DataType.BFLOAT16, np.dtype(ml_dtypes.bfloat16)),
}
# TensorRT has no kernels for these; they are little work and stay in float32.
NO_KERNELS: dict[str, tuple[str, ...]] = {'bfloat16': ('ConvTranspose',)}


@dataclass(frozen=True)
class GraphTypes:
    """How a graph is rewritten.

    Attributes:
        products: type of matrix products, convolutions and attention, a key of `TYPES`.
        attention: one of `ATTENTIONS`.

    """

    products: str = 'float16'
    attention: str = 'operator'

    def __post_init__(self) -> None:
        for name, value, allowed in (
            ('type', self.products, tuple(TYPES)),
            ('attention', self.attention, ATTENTIONS),
        ):
            if value not in allowed:
                raise UsageError(f'{name} {value!r}: must be one of {", ".join(allowed)}')


def rewrite_graph(source: Path, target: Path, types: GraphTypes) -> None:
    """Write the graph that TensorRT parses; weights lie in `<target>.data` beside it.

    Args:
        source: one of a bundle's graphs.
        target: the new file.
        types: see there.

    """
    model = onnx_ir.load(source)
    _Rewriter(model, types).run()
    onnx_ir.save(model, target, external_data=f'{target.name}.data')


class _Rewriter(GraphEditor):
    """One pass over a graph's nodes, each replaced in its place."""

    def __init__(self, model: onnx_ir.Model, types: GraphTypes) -> None:
        super().__init__(model.graph)
        self._types = types
        self._half, self._half_numpy = TYPES[types.products]
        float_only = types.products == 'float32'
        self._in_float = PRODUCTS if float_only else NO_KERNELS.get(types.products, ())
        self._casts: dict[str, Value] = {}
        if types.attention == 'operator':  # an older TensorRT may not know the opset either
            model.graph.opset_imports[''] = max(model.graph.opset_imports[''], ATTENTION_OPSET)
        model.graph.opset_imports.pop('com.microsoft', None)

    def run(self) -> None:
        """Rewrite the graph in place."""
        in_float = self._float_nodes()
        for node in list(self.graph):
            float_part = id(node) in in_float or node.op_type in self._in_float
            if node.op_type == 'QuantizeLinear':
                self._make_symmetric(node)
            elif node.op_type in PRODUCTS and not float_part:
                self._halve_product(node)
            elif node.op_type == 'MultiHeadAttention':
                self._spell_attention(node, id(node) in in_float)
        for name, value in list(self.graph.initializers.items()):
            if not value.uses():
                del self.graph.initializers[name]

    def _float_nodes(self) -> set[int]:
        """Return the nodes that use weights of float parts, and everything after them."""
        marked: set[int] = set()
        for node in self.graph:
            for value in node.inputs:
                if value is None:
                    continue
                producer = value.producer()
                if (value.name or '').startswith(FLOAT_PARTS) or (
                    producer is not None and id(producer) in marked
                ):
                    marked.add(id(node))
        return marked

    # --- products

    def _halve_product(self, node: Node) -> None:
        """Compute one product in the half type, from float32 to float32."""
        for index, value in enumerate(node.inputs):
            if value is not None:
                node.replace_input_with(index, self._as_half(value))
        (output,) = node.outputs
        output.type = onnx_ir.TensorType(self._half)
        self.follow(node, self.cast(output, DataType.FLOAT))

    def _as_half(self, value: Value) -> Value:
        """Return a value in the half type: a step of its quantisation, a constant, or a cast."""
        producer = value.producer()
        if producer is not None and producer.op_type == 'DequantizeLinear':
            return self._dequantised_as_half(value, producer)
        if value.const_value is not None:
            return self.constant(value.const_value.numpy().astype(self._half_numpy), value.name)
        key = value.name or ''
        if key not in self._casts:
            made = self.cast(value, self._half)
            # Right behind what makes the value, so that all its users may share it.
            if producer is None:
                self.graph.insert_before(self.graph[0], cast(Node, made.producer()))
            else:
                self.graph.insert_after(producer, cast(Node, made.producer()))
            self._casts[key] = made
        return self._casts[key]

    def _dequantised_as_half(self, value: Value, dequantise: Node) -> Value:
        """Let integers become halves at once: what is dequantised has the type of its step."""
        key = value.name or ''
        if key not in self._casts:
            step = cast(Value, dequantise.inputs[1])
            assert step.const_value is not None
            steps = step.const_value.numpy().astype(self._half_numpy)
            inputs = [dequantise.inputs[0], self.constant(steps, step.name)]
            attributes = {name: a.value for name, a in dequantise.attributes.items()}
            twin = onnx_ir.node(
                'DequantizeLinear', inputs, attributes, name=self.name('dequantise')
            )
            twin.outputs[0].name = self.name('half')
            self.graph.insert_after(dequantise, twin)
            self._casts[key] = twin.outputs[0]
        return self._casts[key]

    # --- quantised inputs

    def _make_symmetric(self, quantise: Node) -> None:
        """Take the offset z out of a quantiser: clip(round(x/s) + z) = clip(round((x + zs)/s)).

        What is dequantised is then x + z s, and the product's bias gives z s W back.
        """
        x, step, zero = (cast(Value, value) for value in quantise.inputs)
        offset = _number(zero)
        (integers,) = quantise.outputs
        users = [use.node for use in integers.uses()]
        if offset:
            shift = np.float32(offset * _number(step))
            shifted = self.operator('Add', [x, self.constant(shift, 'shift')], quantise)
            quantise.replace_input_with(0, shifted)
            for dequantise in users:
                self._return_shift(dequantise, float(shift))
        quantise.resize_inputs(2)
        quantise.attributes['output_dtype'] = onnx_ir.AttrInt64('output_dtype', DataType.INT8)
        for dequantise in users:
            dequantise.resize_inputs(2)

    def _return_shift(self, dequantise: Node, shift: float) -> None:
        """Subtract shift * (sum over inputs of W) from each product of a shifted input."""
        for use in list(dequantise.outputs[0].uses()):
            product = use.node
            weight = _dequantised_constant(cast(Value, product.inputs[1]))
            excess = shift * weight.sum(axis=0, dtype=np.float64)
            correction = self.constant(-excess.astype(np.float32), 'correction')
            made = onnx_ir.node('Add', [product.outputs[0], correction], name=self.name('add'))
            made.outputs[0].name = self.name('unshifted')
            made.outputs[0].type = onnx_ir.TensorType(DataType.FLOAT)
            self.follow(product, made.outputs[0])

    # --- attention

    def _spell_attention(self, node: Node, float_part: bool) -> None:
        """Replace ONNX Runtime's attention [n, L, D] by what TensorRT knows."""
        heads = node.attributes['num_heads'].as_int()
        # The camera head's few tokens are not worth a fused kernel, which float32 has none of.
        pattern = float_part or self._types.attention == 'pattern'
        half = not float_part and self._types.products != 'float32'
        inputs = [
            self._as_half(cast(Value, value)) if half else cast(Value, value)
            for value in node.inputs[:3]
        ]
        if pattern:
            out = self._attention_pattern(inputs, heads, node)
        else:
            attributes = {'q_num_heads': heads, 'kv_num_heads': heads}
            out = self.operator('Attention', inputs, node, attributes)
        if half:
            out.type = onnx_ir.TensorType(self._half)
            out = self.operator('Cast', [out], node, {'to': DataType.FLOAT})
        onnx_ir.convenience.replace_all_uses_with(node.outputs[0], out)
        self.graph.remove(node, safe=True)

    def _attention_pattern(self, inputs: list[Value], heads: int, before: Node) -> Value:
        """Spell attention as MatMul, Softmax, MatMul over [n, heads, L, width of a head]."""
        split = self.constant(np.array([0, 0, heads, -1], np.int64), 'split')
        merge = self.constant(np.array([0, 0, -1], np.int64), 'merge')
        parts = [
            self.operator(
                'Transpose',
                [self.operator('Reshape', [value, split], before)],
                before,
                {'perm': perm},
            )
            for value, perm in zip(inputs, ([0, 2, 1, 3], [0, 2, 3, 1], [0, 2, 1, 3]), strict=True)
        ]
        width = _last_size(inputs[0], before) // heads
        number = self._half_numpy if inputs[0].dtype == self._half else np.dtype(np.float32)
        scale = self.constant(np.array(width**-0.5).astype(number), 'scale')
        query = self.operator('Mul', [parts[0], scale], before)
        scores = self.operator('MatMul', [query, parts[1]], before)
        weights = self.operator('Softmax', [scores], before, {'axis': -1})
        mixed = self.operator('MatMul', [weights, parts[2]], before)
        merged = self.operator('Transpose', [mixed], before, {'perm': [0, 2, 1, 3]})
        return self.operator('Reshape', [merged, merge], before)


def _number(value: Value) -> float:
    assert value.const_value is not None
    return float(value.const_value.numpy())


def _dequantised_constant(value: Value) -> NDArray[np.float64]:
    """Return the numbers [inputs, outputs] that a product's integer weights stand for."""
    dequantise = value.producer()
    assert dequantise is not None and dequantise.op_type == 'DequantizeLinear'
    integers, steps = (cast(Value, part).const_value for part in dequantise.inputs[:2])
    assert integers is not None and steps is not None
    return integers.numpy().astype(np.float64) * steps.numpy().astype(np.float64)


def _last_size(value: Value, node: Node) -> int:
    """Return the width of tokens, from the shape that the exporter has left in the graph."""
    for candidate in (value, *node.inputs, *node.outputs):
        shape = None if candidate is None else candidate.shape
        if shape is not None and isinstance(shape[-1], int):
            return shape[-1]
    raise BundleError('graph: attention of unknown width; build the bundle again')
