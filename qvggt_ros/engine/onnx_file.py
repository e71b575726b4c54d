# Copyright 2026 qvggt_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""What a graph file may make a runtime do, checked before a runtime opens it.

An ONNX file can name other files that its weights are read from, wherever they are, and operators
that run other code. Not every runtime refuses that, so the file's structure is read here, field
by field as protobuf writes it, without loading it: weights are stepped over.
"""

from __future__ import annotations

import mmap
from collections.abc import Callable, Iterator
from pathlib import Path

from qvggt_ros.engine.manifest_types import GraphInfo
from qvggt_ros.engine.onnx_message import EXTERNAL, GRAPH, KEY, OPERATOR, VALUE
from qvggt_ros.engine.protobuf import Field, MalformedError, read_fields
from qvggt_ros.errors import BundleError

STANDARD_DOMAINS = ('', 'ai.onnx')
# ONNX Runtime's own operators that bundles use. Others of that domain name files or code.
RUNTIME_DOMAIN, RUNTIME_OPERATORS = 'com.microsoft', ('MultiHeadAttention',)

MAX_FIELDS = 1_000_000
MAX_DEPTH = 64

# Messages of onnx.proto by the numbers of the fields that hold other messages.
_INNER: dict[str, dict[int, str]] = {
    'model': {7: 'graph'},
    'graph': {1: 'node', 5: 'tensor', 15: 'sparse tensor'},
    'node': {5: 'attribute'},
    'attribute': {
        5: 'tensor', 6: 'graph', 10: 'tensor', 11: 'graph', 22: 'sparse tensor',
        23: 'sparse tensor',
    },
    'sparse tensor': {1: 'tensor', 2: 'tensor'},
    'tensor': {},
}  # fmt: skip
_TRAINING, _FUNCTIONS = 20, 25  # of a model
_DOMAIN = 7  # of a node
_DATA_LOCATION = 14  # of a tensor


def check_graph_file(folder: Path, graph: GraphInfo) -> None:
    """Refuse a graph that reads other files than the manifest's, or that runs foreign code.

    Args:
        folder: the bundle.
        graph: the manifest's entry; the digests of its files were verified already.

    Raises:
        BundleError: one line that names the file and what is wrong with it.

    """
    path = folder / graph.file
    try:
        data_bytes = (folder / graph.data_file).stat().st_size if graph.data_file else 0
        with path.open('rb') as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            _GraphFile(path, data, graph.data_file, data_bytes).check()
    except (OSError, ValueError) as error:  # ValueError: nothing in it
        raise BundleError(f'{path}: cannot be read: {error}') from error


class _GraphFile:
    """One walk through an ONNX file."""

    def __init__(
        self, path: Path, data: mmap.mmap, data_file: str | None, data_bytes: int
    ) -> None:
        self.path, self.data = path, data
        self.data_file, self.data_bytes = data_file, data_bytes
        self.fields_left = MAX_FIELDS
        self.checks: dict[str, Callable[[list[Field]], None]] = {
            'model': self.check_model,
            'node': self.check_node,
            'tensor': self.check_tensor,
        }

    def check(self) -> None:
        self.walk('model', 0, len(self.data), 0)

    def error(self, rule: str) -> BundleError:
        return BundleError(f'{self.path}: {rule}')

    def walk(self, kind: str, begin: int, end: int, depth: int) -> None:
        """Check a message and the messages in it."""
        if depth > MAX_DEPTH:
            raise self.error(f'graphs lie in graphs more than {MAX_DEPTH} levels deep')
        inner, check = _INNER[kind], self.checks.get(kind)
        fields = []
        for field in self.fields(begin, end):
            if field.number in inner:
                if not field.is_bytes:
                    raise self.malformed(begin)
                self.walk(inner[field.number], field.begin, field.end, depth + 1)
            if check is not None:
                fields.append(field)
        if check is not None:
            check(fields)

    def check_model(self, fields: list[Field]) -> None:
        numbers = {field.number for field in fields}
        if GRAPH not in numbers:
            raise self.error('holds no graph; the file is damaged')
        if numbers & {_TRAINING, _FUNCTIONS}:
            raise self.error('holds functions or training steps, which no bundle needs')

    def check_node(self, fields: list[Field]) -> None:
        operator, domain = self.text(fields, OPERATOR), self.text(fields, _DOMAIN)
        known = domain in STANDARD_DOMAINS or (
            domain == RUNTIME_DOMAIN and operator in RUNTIME_OPERATORS
        )
        if not known:
            raise self.error(f'operator {operator!r:.80} of {domain!r:.80} is none of a bundle')

    def check_tensor(self, fields: list[Field]) -> None:
        """Refuse weights that lie in another file than the manifest's or beyond its end."""
        entries: dict[str, str] = {}
        external = False
        for field in fields:
            if field.number == _DATA_LOCATION:
                external = external or field.value != 0 or field.is_bytes
            elif field.number == EXTERNAL:
                external = True
                key, value = self.entry(field)
                if key in entries:
                    raise self.error(f'weights with two entries {key!r:.80}')
                entries[key] = value
        if external:
            self.check_external(entries)

    def check_external(self, entries: dict[str, str]) -> None:
        location = entries.pop('location', None)
        if location is None or location != self.data_file:
            wanted = self.data_file or 'none beside it'
            raise self.error(f'reads weights from {location!r:.80}; the manifest allows {wanted}')
        entries.pop('checksum', None)
        offset = self.whole_number(entries.pop('offset', '0'))
        if offset + self.whole_number(entries.pop('length', '0')) > self.data_bytes:
            raise self.error(f'reads weights beyond the end of {location}')
        if entries:
            raise self.error(f'weights with an unknown entry {next(iter(entries))!r:.80}')

    def whole_number(self, text: str) -> int:
        if not (text.isascii() and text.isdigit() and len(text) < 20):
            raise self.error(f'place of weights {text!r:.80} must be a whole number')
        return int(text)

    def entry(self, field: Field) -> tuple[str, str]:
        """Return key and value of an entry of external data."""
        if not field.is_bytes:
            raise self.malformed(field.begin)
        fields = list(self.fields(field.begin, field.end))
        return self.text(fields, KEY), self.text(fields, VALUE)

    def text(self, fields: list[Field], number: int) -> str:
        """Return a message's text field, empty if it has none; the last one counts."""
        found = [field for field in fields if field.number == number]
        if not found:
            return ''
        if not all(field.is_bytes for field in found):
            raise self.malformed(found[0].begin)
        return self.data[found[-1].begin : found[-1].end].decode('utf-8', 'backslashreplace')

    def fields(self, begin: int, end: int) -> Iterator[Field]:
        """Give the fields of the message between two places of the file."""
        try:
            for field in read_fields(self.data, begin, end):
                self.fields_left -= 1
                if self.fields_left < 0:
                    raise self.error(f'has more than {MAX_FIELDS} parts')
                yield field
        except MalformedError as error:
            raise self.malformed(error.at) from error

    def malformed(self, at: int) -> BundleError:
        return self.error(f'is no ONNX graph: broken at byte {at}; the file is damaged')
