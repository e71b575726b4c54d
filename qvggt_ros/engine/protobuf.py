# Copyright 2026 qvggt_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""The fields of a protobuf message, as they lie in a file (no library, nothing copied).

The encoding: https://protobuf.dev/programming-guides/encoding/.
"""

from __future__ import annotations

import mmap
from collections.abc import Iterator
from typing import NamedTuple

VARINT, FIXED_64, BYTES, FIXED_32 = 0, 1, 2, 5
_FIXED_SIZES = {FIXED_64: 8, FIXED_32: 4}

Buffer = bytes | mmap.mmap


class MalformedError(ValueError):
    """The bytes are no message.

    Attributes:
        at: where that shows.

    """

    def __init__(self, at: int) -> None:
        super().__init__(f'broken at byte {at}')
        self.at = at


class Field(NamedTuple):
    """A field of a message.

    Attributes:
        number: which one.
        value: of a field that is a number.
        start: where the field begins, its number and kind included.
        begin, end: where its bytes, or its number, lie.
        is_bytes: whether it holds bytes: a text, a message, numbers in a row.

    """

    number: int
    value: int
    start: int
    begin: int
    end: int
    is_bytes: bool


def read_fields(data: Buffer, begin: int, end: int) -> Iterator[Field]:
    """Give the fields of the message between two places; MalformedError where there is none."""
    at = begin
    while at < end:
        start = at
        tag, at = read_varint(data, at, end)
        number, kind = tag >> 3, tag & 7
        value, first = 0, at
        if kind == VARINT:
            value, at = read_varint(data, at, end)
        elif kind == BYTES:
            size, first = read_varint(data, at, end)
            at = first + size
        elif kind in _FIXED_SIZES:
            at += _FIXED_SIZES[kind]
        else:
            raise MalformedError(at)
        # No number has more than 29 bits: a library that kept only those saw another field.
        if at > end or not 0 < number < 1 << 29:
            raise MalformedError(first)
        yield Field(number, value, start, first, at, kind == BYTES)


def read_varint(data: Buffer, at: int, end: int) -> tuple[int, int]:
    """Return a number of up to 64 bits, 7 to a byte, and where it ends."""
    value = 0
    for index, byte in enumerate(data[at : min(at + 10, end)]):
        value |= (byte & 0x7F) << (7 * index)
        if byte < 0x80:
            return value, at + index + 1
    raise MalformedError(at)


def write_varint(value: int) -> bytes:
    """Write a number, 7 bits to a byte."""
    parts = bytearray()
    while value > 0x7F:
        parts.append(value & 0x7F | 0x80)
        value >>= 7
    parts.append(value)
    return bytes(parts)


def write_number(number: int, value: int) -> bytes:
    """Write a field that is a number."""
    return write_varint(number << 3 | VARINT) + write_varint(value)


def write_bytes(number: int, data: bytes) -> bytes:
    """Write a field that holds bytes."""
    return b''.join((write_varint(number << 3 | BYTES), write_varint(len(data)), data))
