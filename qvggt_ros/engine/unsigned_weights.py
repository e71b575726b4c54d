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
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from qvggt_ros.engine.protobuf import (
    Field,
    read_fields,
    read_varint,
    write_bytes,
    write_number,
)
from qvggt_ros.errors import EngineError

UnsignedWeights = NDArray[np.uint8]

_CPU_INFO = Path('/proc/cpuinfo')
# Instruction sets with 8-bit products that add up in 32 bits.
_EXACT = {'avx512_vnni', 'avx_vnni', 'avx_vnni_int8', 'amx_int8'}

# Numbers of the fields of onnx.proto.
_GRAPH = 7
_NODE, _INITIALIZER = 1, 5
_INPUT, _OPERATOR = 1, 4
_DIMENSIONS, _TYPE, _NAME, _RAW, _EXTERNAL = 1, 2, 8, 9, 13
_KEY, _VALUE = 1, 2  # of an entry of external data
_INT8, _UINT8 = 3, 2
_SIGN = 0x80
_ZERO_POINT = '.zero_point_128'
# One per output channel; a damaged file may say anything.
_MOST_STEPS = 1 << 20


def products_overflow(cpu_info: Path = _CPU_INFO) -> bool:
    """Whether 8-bit products overflow on this processor; where that is unknown, they may."""
    if platform.machine().lower() not in ('x86_64', 'amd64'):
        return False
    try:
        lines = cpu_info.read_text(encoding='utf-8', errors='replace').splitlines()
    except OSError:
        return True
    flags = next((line for line in lines if line.startswith('flags')), '')
    return not _EXACT & set(flags.partition(':')[2].split())


class UnsignedGraph(NamedTuple):
    """A graph whose 8-bit weights are unsigned.

    Attributes:
        model: the ONNX file's bytes.
        external: the weights that lay in a file beside it, by name, uint8.

    """

    model: bytes
    external: dict[str, UnsignedWeights]


def with_unsigned_weights(path: Path) -> UnsignedGraph | None:
    """Read a graph, already checked by `check_graph_file`, with its int8 weights as uint8.

    Returns:
        None if the graph has no int8 weights that a DequantizeLinear reads.

    Raises:
        EngineError: it cannot be read.

    """
    try:
        data = path.read_bytes()
        model = _Message(data, 0, len(data))
        weights = _weights(next(model.inner(_GRAPH)))
        if not weights:
            return None
        external: dict[str, UnsignedWeights] = {}
        parts = [
            write_bytes(_GRAPH, _rewritten(model.of(field), weights, path.parent, external))
            if field.number == _GRAPH
            else model.whole(field)
            for field in model.fields()
        ]
    except (OSError, LookupError, ValueError, StopIteration) as error:
        raise EngineError(f'{path}: its weights cannot be made unsigned: {error}') from error
    return UnsignedGraph(b''.join(parts), external)


class _Message(NamedTuple):
    """A message in a file."""

    data: bytes
    begin: int
    end: int

    def fields(self) -> Iterator[Field]:
        return read_fields(self.data, self.begin, self.end)

    def inner(self, number: int) -> Iterator[_Message]:
        """Give the messages, or texts, that its fields of a number hold."""
        return (self.of(field) for field in self.fields() if field.number == number)

    def of(self, field: Field) -> _Message:
        return _Message(self.data, field.begin, field.end)

    def content(self) -> bytes:
        return self.data[self.begin : self.end]

    def whole(self, field: Field) -> bytes:
        """Return a field as it was written."""
        return self.data[field.start : field.end]

    def text(self, number: int) -> str:
        """Return a text field, empty if there is none; the last one counts."""
        found = [inner.content() for inner in self.inner(number)]
        return found[-1].decode() if found else ''

    def number(self, number: int) -> int:
        return next((field.value for field in self.fields() if field.number == number), 0)


def _inputs(node: _Message) -> list[str]:
    return [text.content().decode() for text in node.inner(_INPUT)]


def _weights(graph: _Message) -> dict[str, str]:
    """Name the int8 weights that are dequantised without a zero point, and their steps."""
    signed = {
        tensor.text(_NAME) for tensor in graph.inner(_INITIALIZER) if tensor.number(_TYPE) == _INT8
    }
    weights = {}
    for node in graph.inner(_NODE):
        if node.text(_OPERATOR) == 'DequantizeLinear':
            inputs = _inputs(node)
            if len(inputs) == 2 and inputs[0] in signed:
                weights[inputs[0]] = inputs[1]
    return weights


def _rewritten(
    graph: _Message,
    weights: dict[str, str],
    folder: Path,
    external: dict[str, UnsignedWeights],
) -> bytes:
    """Return a graph with unsigned weights, their zero points added; fills `external`."""
    parts = []
    steps = set(weights.values())
    for field in graph.fields():
        part, inner = graph.whole(field), graph.of(field)
        if field.number == _INITIALIZER:
            name = inner.text(_NAME)
            if name in weights:
                part = write_bytes(_INITIALIZER, _unsigned(inner, name, folder, external))
            elif name in steps:
                parts.append(write_bytes(_INITIALIZER, _zero_points(inner, name)))
        elif field.number == _NODE and inner.text(_OPERATOR) == 'DequantizeLinear':
            inputs = _inputs(inner)
            if inputs[0] in weights:
                zero = write_bytes(_INPUT, (inputs[1] + _ZERO_POINT).encode())
                part = write_bytes(_NODE, inner.content() + zero)
        parts.append(part)
    return b''.join(parts)


def _unsigned(
    tensor: _Message, name: str, folder: Path, external: dict[str, UnsignedWeights]
) -> bytes:
    """Return a weight as uint8: each number 128 more."""
    parts = []
    for field in tensor.fields():
        if field.number == _TYPE:
            parts.append(write_number(_TYPE, _UINT8))
        elif field.number == _RAW:
            numbers = np.frombuffer(tensor.of(field).content(), np.uint8) ^ np.uint8(_SIGN)
            parts.append(write_bytes(_RAW, numbers.tobytes()))
        else:
            parts.append(tensor.whole(field))
    entries = {entry.text(_KEY): entry.text(_VALUE) for entry in tensor.inner(_EXTERNAL)}
    if entries:
        numbers = np.fromfile(
            folder / entries['location'],
            np.uint8,
            count=int(entries['length']),
            offset=int(entries.get('offset', '0')),
        )
        external[name] = (numbers ^ np.uint8(_SIGN)).reshape(_dimensions(tensor))
    return b''.join(parts)


def _dimensions(tensor: _Message) -> list[int]:
    """Return a tensor's shape, written as single numbers or packed."""
    dims: list[int] = []
    for field in tensor.fields():
        if field.number != _DIMENSIONS:
            continue
        if not field.is_bytes:
            dims.append(field.value)
            continue
        at = field.begin
        while at < field.end:
            size, at = read_varint(tensor.data, at, field.end)
            dims.append(size)
    return dims


def _zero_points(step: _Message, name: str) -> bytes:
    """Return a tensor of the shape of the steps that holds 128 everywhere."""
    dims = _dimensions(step)
    count = math.prod(dims)
    if count > _MOST_STEPS:
        raise ValueError(f'{name} has {count} steps')
    parts = (
        *(write_number(_DIMENSIONS, size) for size in dims),
        write_number(_TYPE, _UINT8),
        write_bytes(_NAME, (name + _ZERO_POINT).encode()),
        write_bytes(_RAW, bytes([_SIGN]) * count),
    )
    return b''.join(parts)
