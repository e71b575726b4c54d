# Copyright 2026 qvggt_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Count what a bundle's ONNX graph does for a number of frames, without its weights' values."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from math import prod
from pathlib import Path

import onnx
from google.protobuf.message import DecodeError  # type: ignore[import-untyped]
from onnx import NodeProto, TensorProto, helper, shape_inference

from qvggt_ros.errors import BundleError
from qvggt_ros.evaluation.work import (
    ATTENTION,
    CONVOLUTION,
    EPILOGUE,
    INT4_BITS,
    INT8_BITS,
    POINTWISE,
    PRODUCT,
    Step,
    Weight,
    Work,
    fused,
)

Shape = tuple[int, ...]

BITS = {
    TensorProto.INT8: INT8_BITS,
    TensorProto.UINT8: INT8_BITS,
    TensorProto.INT4: INT4_BITS,
    TensorProto.UINT4: INT4_BITS,
}
# Nothing moves: another name, or a part, of the same numbers in memory.
VIEWS = {'Reshape', 'Flatten', 'Squeeze', 'Unsqueeze', 'Identity', 'Split', 'Slice', 'Cast'}
# The numbers between a product and its neighbours become int8 and back within their kernels.
VIEWS |= {'QuantizeLinear', 'DequantizeLinear'}
# One number at a time, from the same place of the inputs.
ELEMENTWISE = {'Add', 'Sub', 'Mul', 'Div', 'Gelu', 'Relu', 'Sigmoid', 'Erf', 'Tanh', 'Clip', 'Exp'}
SHAPES = {'Shape', 'Range', 'Size'}  # a few whole numbers, computed by the processor
FUSED_ATTENTION = {'MultiHeadAttention', 'Attention'}
# Constants up to this many numbers may be shapes, which shape inference must read.
SMALL_CONSTANT = 64


class Graph:
    """One ONNX graph, whose first dimension of every input is the number of frames."""

    def __init__(self, path: Path) -> None:
        """Read a graph.

        Args:
            path: of the .onnx file; weights kept in a file beside it are not opened.

        Raises:
            BundleError: it is no ONNX graph.

        """
        self.path = path
        try:
            self._model = onnx.load(path, load_external_data=False)
        except (OSError, DecodeError) as error:
            raise BundleError(f'{path}: cannot be read as an ONNX graph: {error}') from error
        graph = self._model.graph
        self._nodes = [NodeProto.FromString(node.SerializeToString()) for node in graph.node]
        self._constants = {
            tensor.name: (tuple(tensor.dims), BITS.get(tensor.data_type))
            for tensor in graph.initializer
        }
        self._inputs = tuple(value.name for value in graph.input)
        self._outputs = tuple(value.name for value in graph.output)
        _forget_values(self._model)

    def work(self, frames: int) -> Work:
        """Return what the graph does with this many frames.

        Raises:
            BundleError: the graph has an operator whose costs or shapes are not known.

        """
        reader = _Reader(self, self._shapes(frames), self._constants)
        for node in self._nodes:
            reader.read(node)
        return reader.work(self._inputs, self._outputs)

    def _shapes(self, frames: int) -> dict[str, Shape]:
        """Return every tensor's shape, by ONNX's inference."""
        model = onnx.ModelProto.FromString(self._model.SerializeToString())
        for value in model.graph.input[: len(self._inputs)]:
            value.type.tensor_type.shape.dim[0].dim_value = frames
        try:
            model = shape_inference.infer_shapes(model, strict_mode=True, data_prop=True)
        except shape_inference.InferenceError as error:
            raise BundleError(f'{self.path}: its shapes contradict each other: {error}') from error
        values = (*model.graph.input, *model.graph.value_info, *model.graph.output)
        # A dimension that inference leaves open is the length of Range, the frames.
        return {
            value.name: tuple(
                dim.dim_value if dim.HasField('dim_value') else frames
                for dim in value.type.tensor_type.shape.dim
            )
            for value in values
            if value.type.tensor_type.HasField('shape')
        }


def _forget_values(model: onnx.ModelProto) -> None:
    """Leave of a graph what shape inference needs: no weights, no shapes for other frames."""
    graph = model.graph
    large = [tensor for tensor in graph.initializer if prod(tensor.dims) > SMALL_CONSTANT]
    small = [tensor for tensor in graph.initializer if prod(tensor.dims) <= SMALL_CONSTANT]
    graph.input.extend(
        helper.make_tensor_value_info(tensor.name, tensor.data_type, list(tensor.dims))
        for tensor in large
    )
    del graph.initializer[:]
    graph.initializer.extend(small)
    del graph.value_info[:]
    for value in graph.output:
        value.type.tensor_type.ClearField('shape')
    for node in graph.node:
        # ONNX Runtime's own operator, unknown here, returns the shape of its first input.
        if node.domain == 'com.microsoft' and node.op_type == 'MultiHeadAttention':
            node.domain, node.op_type = '', 'Identity'
            del node.input[1:], node.attribute[:]


class _Reader:
    """Turns nodes into steps, one after the other."""

    def __init__(
        self,
        graph: Graph,
        shapes: Mapping[str, Shape],
        constants: Mapping[str, tuple[Shape, float | None]],
    ) -> None:
        self._path = graph.path
        self._shapes = {name: shape for name, (shape, _) in constants.items()} | dict(shapes)
        self._weights = {
            name: Weight(name, prod(shape), bits) for name, (shape, bits) in constants.items()
        }
        self._root: dict[str, str] = {}  # a view's name -> the tensor that it is a view of
        self._integer: set[str] = set()  # tensors that have just been int8
        self._steps: list[Step] = []

    def read(self, node: NodeProto) -> None:
        """Add what a node does."""
        given = [name for name in node.input if name]
        operator = node.op_type
        if given and all(name in self._weights for name in given):
            self._fold(node, given)
        elif operator in SHAPES or operator == 'Constant':
            self._weights.update((name, Weight(name, 0)) for name in node.output)
        elif operator in VIEWS:
            for name in node.output:
                self._root[name] = self._root.get(given[0], given[0])
            if operator == 'DequantizeLinear':
                self._integer.add(node.output[0])
        elif operator in HEAVY:
            self._heavy(node, given)
        else:
            kind = EPILOGUE if operator in ELEMENTWISE else POINTWISE
            self._steps.append(Step(kind, 0, self._reads(given), tuple(node.output)))

    def _fold(self, node: NodeProto, given: Sequence[str]) -> None:
        """Note that a node's results are constants, and which weight they are."""
        first = self._weights[given[0]]
        for name in node.output:
            numbers = prod(self._shape(name))
            same = numbers == first.numbers
            self._weights[name] = first if same else Weight(name, numbers)

    def _heavy(self, node: NodeProto, given: Sequence[str]) -> None:
        kind, operations = HEAVY[node.op_type](
            node, [self._shape(name) for name in given[:3]], self._shape(node.output[0])
        )
        weight = next((self._weights[n] for n in given[:2] if n in self._weights), None)
        if kind == PRODUCT and weight is None:
            kind = ATTENTION
        integer = weight is not None and weight.bits is not None and kind == PRODUCT
        integer = integer and any(name in self._integer for name in given[:2])
        read = [name for name in given if self._weights.get(name) is not weight or weight is None]
        step = Step(kind, operations, self._reads(read), tuple(node.output), weight, integer)
        self._steps.append(step)

    def _reads(self, given: Sequence[str]) -> dict[str, int]:
        """Return how much of each tensor is read; two views of one are parts of it."""
        reads: dict[str, int] = {}
        for name in given:
            root = self._root.get(name, name)
            numbers = reads.get(root, 0) + prod(self._shape(name))
            reads[root] = min(numbers, prod(self._shape(root)))
        return reads

    def _shape(self, name: str) -> Shape:
        if name not in self._shapes:
            raise BundleError(f'{self._path}: the shape of {name!r} cannot be inferred')
        return self._shapes[name]

    def work(self, inputs: tuple[str, ...], outputs: tuple[str, ...]) -> Work:
        """Return all steps, joined as engines join them."""
        made = {name for step in self._steps for name in step.writes} | set(inputs)
        read = {name for step in self._steps for name in step.reads}
        stored = {self._weights[name].name: self._weights[name].numbers for name in read - made}
        numbers = {name: prod(self._shape(name)) for name in made}
        ends = tuple(self._root.get(name, name) for name in outputs)
        return fused(Work(tuple(self._steps), numbers, inputs, ends, sum(stored.values())))


Count = Callable[[NodeProto, Sequence[Shape], Shape], tuple[str, int]]


def _matmul(_: NodeProto, given: Sequence[Shape], out: Shape) -> tuple[str, int]:
    return PRODUCT, 2 * prod(out) * given[0][-1]


def _gemm(_: NodeProto, given: Sequence[Shape], out: Shape) -> tuple[str, int]:
    return PRODUCT, 2 * prod(given[0]) * out[-1]


def _attention(_: NodeProto, given: Sequence[Shape], out: Shape) -> tuple[str, int]:
    """Count queries by keys, and weights by values; the softmax is not counted."""
    return ATTENTION, 2 * 2 * prod(given[0]) * given[1][-2]


def _convolution(_: NodeProto, given: Sequence[Shape], out: Shape) -> tuple[str, int]:
    kernel = given[1]  # [outputs, inputs, height, width]
    kind = PRODUCT if prod(kernel[2:]) == 1 else CONVOLUTION
    return kind, 2 * prod(out) * prod(kernel[1:])


def _transposed(_: NodeProto, given: Sequence[Shape], out: Shape) -> tuple[str, int]:
    return CONVOLUTION, 2 * prod(given[0]) * prod(given[1][1:])


HEAVY: dict[str, Count] = {
    'MatMul': _matmul,
    'Gemm': _gemm,
    'Conv': _convolution,
    'ConvTranspose': _transposed,
    **dict.fromkeys(FUSED_ATTENTION, _attention),
}
