# Copyright 2026 qvggt_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Convolutions with 8-bit weights and float inputs, as fast as those with float weights.

Such weights make a bundle small. ONNX Runtime multiplies them by their steps anew in every run,
and gives up its fast layout for convolutions, which wants constant weights. So they are unpacked
once, in memory, when a graph is opened: the same numbers, by the same products of float32.
"""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from qvggt_ros.engine.onnx_message import (
    DIMENSIONS,
    FLOAT,
    GRAPH_OUTPUT,
    INITIALIZER,
    INPUT,
    INT8,
    NAME,
    NODE,
    OPERATOR,
    OUTPUT,
    RAW,
    TYPE,
    VALUE_NAME,
    Message,
    attributes,
    bytes_of,
    graph_of,
    model_of,
    numbers,
    with_graph,
)
from qvggt_ros.engine.protobuf import write_bytes, write_number

_CONVOLUTIONS = {'Conv', 'ConvTranspose'}
_WEIGHT_INPUT = 1


class _Packed(NamedTuple):
    """A weight that a DequantizeLinear unpacks."""

    node_start: int
    weight: str
    step: str
    axis: int


def with_unpacked_convolutions(data: bytes, folder: Path) -> bytes | None:
    """Return a graph whose convolutions read float weights.

    Args:
        data: the ONNX file's bytes, checked by `check_graph_file`.
        folder: where weights lie that are not in it.

    Returns:
        None if there is nothing to unpack.

    Raises:
        ValueError, LookupError, OSError: it is damaged.

    """
    model = model_of(data)
    graph = graph_of(model)
    packed = _packed(graph)
    if not packed:
        return None
    tensors = {tensor.text(NAME): tensor for tensor in graph.inner(INITIALIZER)}
    unpacked = [
        write_bytes(INITIALIZER, _float_tensor(name, _unpack(weight, tensors, folder)))
        for name, weight in packed.items()
    ]
    dropped = {weight.node_start for weight in packed.values()}
    unused = _read_only_by(graph, dropped, {weight.weight for weight in packed.values()})
    kept = [
        graph.whole(field)
        for field in graph.fields()
        if not (field.number == NODE and field.start in dropped)
        and not (field.number == INITIALIZER and graph.of(field).text(NAME) in unused)
    ]
    return with_graph(model, b''.join(kept + unpacked))


def _packed(graph: Message) -> dict[str, _Packed]:
    """Find what is unpacked for nothing but convolutions' weights, by the name of the result."""
    int8 = {t.text(NAME) for t in graph.inner(INITIALIZER) if t.number(TYPE) == INT8}
    found: dict[str, _Packed] = {}
    readers: Counter[str] = Counter(value.text(VALUE_NAME) for value in graph.inner(GRAPH_OUTPUT))
    weights_of_convolutions: Counter[str] = Counter()
    for field in graph.fields():
        if field.number != NODE:
            continue
        node = graph.of(field)
        inputs, operator = node.texts(INPUT), node.text(OPERATOR)
        readers.update(inputs)
        if operator in _CONVOLUTIONS:
            weights_of_convolutions[inputs[_WEIGHT_INPUT]] += 1
        elif operator == 'DequantizeLinear' and len(inputs) == 2 and inputs[0] in int8:
            values = attributes(node)
            if not values.get('block_size', 0):
                axis = values.get('axis', 1)
                found[node.text(OUTPUT)] = _Packed(field.start, inputs[0], inputs[1], axis)
    return {
        name: weight
        for name, weight in found.items()
        if readers[name] == weights_of_convolutions[name] > 0
    }


def _read_only_by(graph: Message, nodes: set[int], names: set[str]) -> set[str]:
    """Choose the names that only these nodes read."""
    others = {
        name
        for field in graph.fields()
        if field.number == NODE and field.start not in nodes
        for name in graph.of(field).texts(INPUT)
    }
    return names - others


def _unpack(packed: _Packed, tensors: dict[str, Message], folder: Path) -> NDArray[np.float32]:
    """Multiply a weight by its steps."""
    weight = numbers(tensors[packed.weight], folder, np.int8)
    step = numbers(tensors[packed.step], folder, np.float32)
    if step.ndim == 1:
        shape = [1] * weight.ndim
        shape[packed.axis] = step.size
        step = step.reshape(shape)
    return weight.astype(np.float32) * step.astype(np.float32)


def _float_tensor(name: str, values: NDArray[np.float32]) -> bytes:
    parts = (
        *(write_number(DIMENSIONS, size) for size in values.shape),
        write_number(TYPE, FLOAT),
        write_bytes(NAME, bytes_of(name)),
        write_bytes(RAW, values.astype('<f4').tobytes()),
    )
    return b''.join(parts)
