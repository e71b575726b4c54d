# Copyright 2026 qvggt_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Nodes and weights of an ONNX graph, read in place, so that single ones can be rewritten.

For graphs that `check_graph_file` has passed; whatever else is wrong with one is a ValueError or a
LookupError.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
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

# Numbers of the fields of onnx.proto.
GRAPH = 7
NODE, INITIALIZER, GRAPH_OUTPUT = 1, 5, 12
INPUT, OUTPUT, OPERATOR, ATTRIBUTE = 1, 2, 4, 5
ATTRIBUTE_NAME, ATTRIBUTE_NUMBER = 1, 3
DIMENSIONS, TYPE, NAME, RAW, EXTERNAL = 1, 2, 8, 9, 13
VALUE_NAME = 1
KEY, VALUE = 1, 2  # of an entry of external data
FLOAT, UINT8, INT8 = 1, 2, 3  # types of a tensor
DEQUANTIZE = 'DequantizeLinear'

_ESCAPE = 'surrogateescape'


class Message(NamedTuple):
    """A message in a file."""

    data: bytes
    begin: int
    end: int

    def fields(self) -> Iterator[Field]:
        """Give its fields in order."""
        return read_fields(self.data, self.begin, self.end)

    def inner(self, number: int) -> Iterator[Message]:
        """Give the messages, or texts, that its fields of a number hold."""
        return (self.of(field) for field in self.fields() if field.number == number)

    def of(self, field: Field) -> Message:
        """Return the message that a field holds."""
        return Message(self.data, field.begin, field.end)

    def content(self) -> bytes:
        """Return its bytes."""
        return self.data[self.begin : self.end]

    def whole(self, field: Field) -> bytes:
        """Return a field as it was written."""
        return self.data[field.start : field.end]

    def text(self, number: int) -> str:
        """Return a text field, empty if there is none; the last one counts."""
        found = self.texts(number)
        return found[-1] if found else ''

    def texts(self, number: int) -> list[str]:
        """Return the texts of its fields of a number; `bytes_of` gives back what was no text."""
        return [inner.content().decode(errors=_ESCAPE) for inner in self.inner(number)]

    def number(self, number: int) -> int:
        """Return a whole number, 0 if there is none."""
        return next((field.value for field in self.fields() if field.number == number), 0)


class GraphInMemory(NamedTuple):
    """A rewritten graph.

    Attributes:
        model: the ONNX file's bytes.
        external: rewritten weights that lay in a file beside it, by name.

    """

    model: bytes
    external: dict[str, NDArray[np.uint8]]


class Unpacking(NamedTuple):
    """A DequantizeLinear, without zero point, of int8 weights.

    Attributes:
        start: where its field begins in the graph.
        node: the node.
        weight, step: names of the weights and of what they are multiplied by.

    """

    start: int
    node: Message
    weight: str
    step: str


def bytes_of(text: str) -> bytes:
    """Return a text as it is written."""
    return text.encode(errors=_ESCAPE)


def model_of(data: bytes) -> Message:
    """Return the model that a file's bytes hold."""
    return Message(data, 0, len(data))


def graph_of(model: Message) -> Message:
    """Return a model's graph."""
    graph = next(model.inner(GRAPH), None)
    if graph is None:
        raise ValueError('it holds no graph')
    return graph


def with_graph(model: Message, graph: bytes) -> bytes:
    """Return a model with another graph."""
    return b''.join(
        write_bytes(GRAPH, graph) if field.number == GRAPH else model.whole(field)
        for field in model.fields()
    )


def unpackings(graph: Message) -> Iterator[Unpacking]:
    """Give the nodes of a graph that unpack its int8 weights."""
    int8 = {t.text(NAME) for t in graph.inner(INITIALIZER) if t.number(TYPE) == INT8}
    for field in graph.fields():
        node = graph.of(field)
        if field.number == NODE and node.text(OPERATOR) == DEQUANTIZE:
            inputs = node.texts(INPUT)
            if len(inputs) == 2 and inputs[0] in int8:
                yield Unpacking(field.start, node, *inputs)


def attributes(node: Message) -> dict[str, int]:
    """Return a node's attributes that are whole numbers."""
    return {
        attribute.text(ATTRIBUTE_NAME): _signed(attribute.number(ATTRIBUTE_NUMBER))
        for attribute in node.inner(ATTRIBUTE)
    }


def _signed(value: int) -> int:
    return value - (1 << 64) if value >> 63 else value


def dimensions(tensor: Message) -> list[int]:
    """Return a tensor's shape, written as single numbers or packed."""
    dims: list[int] = []
    for field in tensor.fields():
        if field.number != DIMENSIONS:
            continue
        if not field.is_bytes:
            dims.append(field.value)
            continue
        at = field.begin
        while at < field.end:
            size, at = read_varint(tensor.data, at, field.end)
            dims.append(size)
    return dims


def lies_outside(tensor: Message) -> bool:
    """Whether a tensor's numbers lie in a file beside the graph."""
    return any(True for _ in tensor.inner(EXTERNAL))


def raw_bytes(tensor: Message, folder: Path) -> NDArray[np.uint8]:
    """Return the bytes of a tensor's numbers, from the graph or from the file beside it."""
    entries = {entry.text(KEY): entry.text(VALUE) for entry in tensor.inner(EXTERNAL)}
    if not entries:
        return np.frombuffer(next(tensor.inner(RAW)).content(), np.uint8)
    return np.fromfile(
        folder / entries['location'],
        np.uint8,
        count=int(entries['length']),
        offset=int(entries.get('offset', '0')),
    )


def numbers(tensor: Message, folder: Path, dtype: type[np.generic]) -> NDArray[np.generic]:
    """Return a tensor's numbers in its shape."""
    found, dims = raw_bytes(tensor, folder).view(dtype), dimensions(tensor)
    if found.size != math.prod(dims):
        raise ValueError(f'{tensor.text(NAME)} has {found.size} numbers, its shape is {dims}')
    return found.reshape(dims)


def write_tensor(name: str, dtype: int, shape: Sequence[int], raw: bytes) -> bytes:
    """Return the field of a graph that holds a tensor."""
    parts = (
        *(write_number(DIMENSIONS, size) for size in shape),
        write_number(TYPE, dtype),
        write_bytes(NAME, bytes_of(name)),
        write_bytes(RAW, raw),
    )
    return write_bytes(INITIALIZER, b''.join(parts))
