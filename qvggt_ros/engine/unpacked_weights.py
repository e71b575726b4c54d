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

import numpy as np
from numpy.typing import NDArray

from qvggt_ros.engine.onnx_message import (
    FLOAT,
    GRAPH_OUTPUT,
    INITIALIZER,
    INPUT,
    NAME,
    NODE,
    OPERATOR,
    OUTPUT,
    VALUE_NAME,
    Message,
    Unpacking,
    attributes,
    graph_of,
    model_of,
    numbers,
    unpackings,
    with_graph,
    write_tensor,
)

_CONVOLUTIONS = {'Conv', 'ConvTranspose'}
_WEIGHT_INPUT = 1


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
        _float_tensor(name, _unpack(found, tensors, folder)) for name, found in packed.items()
    ]
    dropped = {found.start for found in packed.values()}
    unused = _read_only_by(graph, dropped, {found.weight for found in packed.values()})
    kept = [
        graph.whole(field)
        for field in graph.fields()
        if not (field.number == NODE and field.start in dropped)
        and not (field.number == INITIALIZER and graph.of(field).text(NAME) in unused)
    ]
    return with_graph(model, b''.join(kept + unpacked))


def _packed(graph: Message) -> dict[str, Unpacking]:
    """Find what is unpacked for nothing but convolutions' weights, by the name of the result."""
    readers: Counter[str] = Counter(value.text(VALUE_NAME) for value in graph.inner(GRAPH_OUTPUT))
    weights_of_convolutions: Counter[str] = Counter()
    for node in graph.inner(NODE):
        inputs = node.texts(INPUT)
        readers.update(inputs)
        if node.text(OPERATOR) in _CONVOLUTIONS:
            weights_of_convolutions[inputs[_WEIGHT_INPUT]] += 1
    results = ((found.node.text(OUTPUT), found) for found in unpackings(graph))
    return {
        name: found
        for name, found in results
        if readers[name] == weights_of_convolutions[name] > 0
        and not attributes(found.node).get('block_size', 0)
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


def _unpack(packed: Unpacking, tensors: dict[str, Message], folder: Path) -> NDArray[np.float32]:
    """Multiply a weight by its steps."""
    weight = numbers(tensors[packed.weight], folder, np.int8)
    step = numbers(tensors[packed.step], folder, np.float32)
    if step.ndim == 1:
        shape = [1] * weight.ndim
        shape[attributes(packed.node).get('axis', 1)] = step.size
        step = step.reshape(shape)
    return weight.astype(np.float32) * step.astype(np.float32)


def _float_tensor(name: str, values: NDArray[np.float32]) -> bytes:
    return write_tensor(name, FLOAT, values.shape, values.astype('<f4').tobytes())
