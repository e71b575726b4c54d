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
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from qvggt_ros.errors import EngineError

UnsignedWeights = NDArray[np.uint8]

_CPU_INFO = Path('/proc/cpuinfo')
# Instruction sets with 8-bit products that add up in 32 bits.
_EXACT = {'avx512_vnni', 'avx_vnni', 'avx_vnni_int8', 'amx_int8'}

# Numbers of the fields of onnx.proto.
_GRAPH = 7
_NODE, _INITIALIZER = 1, 5
_INPUT, _OPERATOR = 1, 4
_DIMENSIONS, _TYPE, _NAME, _RAW, _EXTERNAL, _LOCATION = 1, 2, 8, 9, 13, 14
_INT8, _UINT8 = 3, 2
_VARINT, _BYTES = 0, 2
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
        graph = next(field.data for field in _fields(data) if field.number == _GRAPH)
        weights = _weights(graph)
        if not weights:
            return None
        external: dict[str, UnsignedWeights] = {}
        model = b''.join(
            _message(_GRAPH, _rewritten(graph, weights, path.parent, external))
            if field.number == _GRAPH
            else field.whole
            for field in _fields(data)
        )
    except (OSError, LookupError, ValueError, StopIteration) as error:
        raise EngineError(f'{path}: its weights cannot be made unsigned: {error}') from error
    return UnsignedGraph(model, external)


class _Field(NamedTuple):
    """A field of a message: its number or bytes, and the field as it was written."""

    number: int
    value: int
    data: memoryview
    whole: memoryview


def _fields(data: bytes | memoryview) -> Iterator[_Field]:
    """Give the fields of a message."""
    view, at = memoryview(data), 0
    while at < len(view):
        begin = at
        tag, at = _varint(view, at)
        number, kind = tag >> 3, tag & 7
        value, first = 0, at
        if kind == _VARINT:
            value, at = _varint(view, at)
        elif kind == _BYTES:
            size, first = _varint(view, at)
            at = first + size
        else:
            at += 8 if kind == 1 else 4
        if at > len(view):
            raise ValueError('the file is damaged')
        yield _Field(number, value, view[first:at], view[begin:at])


def _varint(view: memoryview, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = view[at]
        value |= (byte & 0x7F) << shift
        shift, at = shift + 7, at + 1
        if byte < 0x80:
            return value, at


def _written(value: int) -> bytes:
    """Write a number, 7 bits to a byte."""
    parts = bytearray()
    while value > 0x7F:
        parts.append(value & 0x7F | 0x80)
        value >>= 7
    parts.append(value)
    return bytes(parts)


def _number(number: int, value: int) -> bytes:
    return _written(number << 3 | _VARINT) + _written(value)


def _message(number: int, data: bytes | memoryview) -> bytes:
    return b''.join((_written(number << 3 | _BYTES), _written(len(data)), data))


def _text(data: bytes | memoryview, number: int) -> str:
    found = [bytes(field.data) for field in _fields(data) if field.number == number]
    return found[-1].decode() if found else ''


def _inputs(node: memoryview) -> list[str]:
    return [bytes(field.data).decode() for field in _fields(node) if field.number == _INPUT]


def _weights(graph: memoryview) -> dict[str, str]:
    """Name the int8 weights that are dequantised without a zero point, and their steps."""
    signed = {
        _text(field.data, _NAME)
        for field in _fields(graph)
        if field.number == _INITIALIZER and _type(field.data) == _INT8
    }
    weights = {}
    for field in _fields(graph):
        if field.number == _NODE and _text(field.data, _OPERATOR) == 'DequantizeLinear':
            inputs = _inputs(field.data)
            if len(inputs) == 2 and inputs[0] in signed:
                weights[inputs[0]] = inputs[1]
    return weights


def _type(tensor: memoryview) -> int:
    return next((field.value for field in _fields(tensor) if field.number == _TYPE), 0)


def _rewritten(
    graph: memoryview,
    weights: dict[str, str],
    folder: Path,
    external: dict[str, UnsignedWeights],
) -> bytes:
    """Return a graph with unsigned weights, their zero points added; fills `external`."""
    parts: list[bytes | memoryview] = []
    steps = set(weights.values())
    for field in _fields(graph):
        name = _text(field.data, _NAME) if field.number == _INITIALIZER else ''
        if name in weights:
            parts.append(_message(_INITIALIZER, _unsigned(field.data, name, folder, external)))
            continue
        if name in steps:
            parts.append(_message(_INITIALIZER, _zero_points(field.data, name)))
        elif field.number == _NODE and _text(field.data, _OPERATOR) == 'DequantizeLinear':
            inputs = _inputs(field.data)
            if inputs[0] in weights:
                zero = _message(_INPUT, (inputs[1] + _ZERO_POINT).encode())
                parts.append(_message(_NODE, bytes(field.data) + zero))
                continue
        parts.append(field.whole)
    return b''.join(parts)


def _unsigned(
    tensor: memoryview, name: str, folder: Path, external: dict[str, UnsignedWeights]
) -> bytes:
    """Return a weight as uint8: each number 128 more."""
    parts: list[bytes | memoryview] = []
    for field in _fields(tensor):
        if field.number == _TYPE:
            parts.append(_number(_TYPE, _UINT8))
        elif field.number == _RAW:
            numbers = np.frombuffer(field.data, np.uint8) ^ np.uint8(_SIGN)
            parts.append(_message(_RAW, numbers.tobytes()))
        else:
            parts.append(field.whole)
    entries = dict(_entries(tensor))
    if entries:
        numbers = np.fromfile(
            folder / entries['location'],
            np.uint8,
            count=int(entries['length']),
            offset=int(entries.get('offset', '0')),
        )
        external[name] = (numbers ^ np.uint8(_SIGN)).reshape(_dimensions(tensor))
    return b''.join(parts)


def _entries(tensor: memoryview) -> Iterator[tuple[str, str]]:
    """Give key and value of what says where weights outside of the graph lie."""
    for field in _fields(tensor):
        if field.number == _EXTERNAL:
            yield _text(field.data, 1), _text(field.data, 2)


def _dimensions(tensor: memoryview) -> list[int]:
    """Return a tensor's shape, written as single numbers or packed."""
    dims: list[int] = []
    for field in _fields(tensor):
        if field.number != _DIMENSIONS:
            continue
        if field.whole[0] & 7 == _VARINT:
            dims.append(field.value)
            continue
        at = 0
        while at < len(field.data):
            size, at = _varint(field.data, at)
            dims.append(size)
    return dims


def _zero_points(step: memoryview, name: str) -> bytes:
    """Return a tensor of the shape of the steps that holds 128 everywhere."""
    dims = _dimensions(step)
    count = math.prod(dims)
    if count > _MOST_STEPS:
        raise ValueError(f'{name} has {count} steps')
    parts: Iterable[bytes] = (
        *(_number(_DIMENSIONS, size) for size in dims),
        _number(_TYPE, _UINT8),
        _message(_NAME, (name + _ZERO_POINT).encode()),
        _message(_RAW, bytes([_SIGN]) * count),
    )
    return b''.join(parts)
