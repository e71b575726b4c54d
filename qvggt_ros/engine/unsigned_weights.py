# Copyright 2026 qvggt_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""8-bit products that are right on x86 processors without VNNI instructions.

There, ONNX Runtime multiplies unsigned inputs by signed weights with an instruction (vpmaddubsw)
that adds two products in 16 bits and saturates: 255 * 127 * 2 is twice what fits. Weights of -127
to 127 then give wrong results and no message. Unsigned weights go through 16-bit products, which
are exact. ONNX Runtime has a switch for it (session.x64quantprecision), which fails on a graph
that uses a weight twice, as the iterations of VGGT's camera head do. So the weights of a graph in
memory are made unsigned here, with 128 as their zero point: the same numbers.
"""

from __future__ import annotations

import math
import platform
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from qvggt_ros.engine.onnx_message import (
    DEQUANTIZE,
    INITIALIZER,
    INPUT,
    NAME,
    NODE,
    OPERATOR,
    RAW,
    TYPE,
    UINT8,
    GraphInMemory,
    Message,
    bytes_of,
    dimensions,
    graph_of,
    lies_outside,
    model_of,
    raw_bytes,
    unpackings,
    with_graph,
    write_tensor,
)
from qvggt_ros.engine.protobuf import write_bytes, write_number
from qvggt_ros.processor import CPU_INFO, processor_flags

# Instruction sets with 8-bit products that add up in 32 bits.
_EXACT = {'avx512_vnni', 'avx_vnni', 'avx_vnni_int8', 'amx_int8'}

_SIGN = 0x80
_ZERO_POINT = '.zero_point_128'
# One per output channel; a damaged file may say anything.
_MOST_STEPS = 1 << 20


def products_overflow(cpu_info: Path = CPU_INFO) -> bool:
    """Whether 8-bit products overflow on this processor; where that is unknown, they may."""
    if platform.machine().lower() not in ('x86_64', 'amd64'):
        return False
    return not _EXACT & processor_flags(cpu_info)


def with_unsigned_weights(data: bytes, folder: Path) -> GraphInMemory | None:
    """Return a graph with its int8 weights as uint8.

    Args:
        data: the ONNX file's bytes, checked by `check_graph_file`.
        folder: where weights lie that are not in it.

    Returns:
        None if the graph has no int8 weights that a DequantizeLinear reads.

    Raises:
        ValueError, LookupError, OSError: it is damaged.

    """
    model = model_of(data)
    graph = graph_of(model)
    weights = {found.weight: found.step for found in unpackings(graph)}
    if not weights:
        return None
    external: dict[str, NDArray[np.uint8]] = {}
    return GraphInMemory(with_graph(model, _rewritten(graph, weights, folder, external)), external)


def _rewritten(
    graph: Message,
    weights: dict[str, str],
    folder: Path,
    external: dict[str, NDArray[np.uint8]],
) -> bytes:
    """Return a graph with unsigned weights, their zero points added; fills `external`."""
    parts = []
    steps = set(weights.values())
    for field in graph.fields():
        part, inner = graph.whole(field), graph.of(field)
        if field.number == INITIALIZER:
            name = inner.text(NAME)
            if name in weights:
                part = write_bytes(INITIALIZER, _unsigned(inner, name, folder, external))
            elif name in steps:
                parts.append(_zero_points(inner, name))
        elif field.number == NODE and inner.text(OPERATOR) == DEQUANTIZE:
            inputs = inner.texts(INPUT)
            if inputs[0] in weights:
                zero = write_bytes(INPUT, bytes_of(inputs[1] + _ZERO_POINT))
                part = write_bytes(NODE, inner.content() + zero)
        parts.append(part)
    return b''.join(parts)


def _unsigned(
    tensor: Message, name: str, folder: Path, external: dict[str, NDArray[np.uint8]]
) -> bytes:
    """Return a weight as uint8: each number 128 more."""
    parts = []
    for field in tensor.fields():
        if field.number == TYPE:
            parts.append(write_number(TYPE, UINT8))
        elif field.number == RAW:
            numbers = np.frombuffer(tensor.of(field).content(), np.uint8) ^ np.uint8(_SIGN)
            parts.append(write_bytes(RAW, numbers.tobytes()))
        else:
            parts.append(tensor.whole(field))
    if lies_outside(tensor):
        signed = raw_bytes(tensor, folder)
        external[name] = (signed ^ np.uint8(_SIGN)).reshape(dimensions(tensor))
    return b''.join(parts)


def _zero_points(step: Message, name: str) -> bytes:
    """Return the field of a tensor of the shape of the steps that holds 128 everywhere."""
    dims = dimensions(step)
    count = math.prod(dims)
    if count > _MOST_STEPS:
        raise ValueError(f'{name} has {count} steps')
    return write_tensor(name + _ZERO_POINT, UINT8, dims, bytes([_SIGN]) * count)
