# Copyright 2026 qvggt_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""A graph file that names other files, foreign operators or nonsense is refused unopened."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import onnx
import pytest
from file_mutants import mutated
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper
from small_networks import small_bundle

from qvggt_ros.engine.manifest import GraphInfo, read_manifest
from qvggt_ros.engine.onnx_file import MAX_FIELDS, check_graph_file
from qvggt_ros.errors import BundleError

DATA_FILE, DATA_BYTES = 'graph.onnx.data', 4096


def external(location: str | None = DATA_FILE, **entries: str) -> TensorProto:
    """Return a tensor whose numbers lie in another file."""
    tensor = TensorProto(name='w', data_type=TensorProto.FLOAT, dims=[4])
    tensor.data_location = TensorProto.EXTERNAL
    if location is not None:
        tensor.external_data.add(key='location', value=location)
    for key, value in entries.items():
        tensor.external_data.add(key=key, value=value)
    return tensor


def model_with(*nodes: NodeProto, tensor: TensorProto | None = None) -> ModelProto:
    floats = TensorProto.FLOAT
    graph = helper.make_graph(
        [helper.make_node('Identity', ['x'], ['y']), *nodes],
        'graph',
        [helper.make_tensor_value_info('x', floats, [4])],
        [helper.make_tensor_value_info('y', floats, [4])],
        [numpy_helper.from_array(np.ones(4, np.float32), 'ones')],
    )
    if tensor is not None:
        graph.initializer.append(tensor)
    return helper.make_model(graph)


def branch(node: NodeProto) -> NodeProto:
    """Return a node that holds another one in a graph of its own."""
    inner = helper.make_graph([node], 'inner', [], [])
    return helper.make_node('If', ['x'], ['z'], then_branch=inner, else_branch=inner)


def check(folder: Path, content: ModelProto | bytes, data_file: str | None = DATA_FILE) -> None:
    raw = content if isinstance(content, bytes) else content.SerializeToString()
    (folder / 'graph.onnx').write_bytes(raw)
    (folder / DATA_FILE).write_bytes(bytes(DATA_BYTES))
    check_graph_file(folder, GraphInfo('graph.onnx', '', (), (), data_file, data_file and ''))


def refusal(folder: Path, content: ModelProto | bytes, data_file: str | None = DATA_FILE) -> str:
    with pytest.raises(BundleError) as caught:
        check(folder, content, data_file)
    message = str(caught.value)
    assert message.isprintable() and message.startswith(f'{folder / "graph.onnx"}: ')
    return message


def test_sound_graphs_pass(tmp_path: Path) -> None:
    manifest = read_manifest(small_bundle())
    for graph in manifest.graphs.values():
        check_graph_file(small_bundle(), graph)
    tensor = external(offset='4080', length='16', checksum='abc')
    check(tmp_path, model_with(branch(helper.make_node('Relu', ['x'], ['y'])), tensor=tensor))
    check(tmp_path, model_with(tensor=external()))


LOCATIONS = [
    '../../etc/passwd', '/etc/passwd', './graph.onnx.data', 'graph.onnx.data/', 'graph.onnx', '',
    'graph.onnx.data\0', '*/_ORT_MEM_ADDR_/*', 'Graph.onnx.data', '\u202e', 'x' * 100_000, None,
]  # fmt: skip


@pytest.mark.parametrize('location', LOCATIONS)
def test_weights_in_any_other_file_are_refused(tmp_path: Path, location: str | None) -> None:
    assert 'reads weights from' in refusal(tmp_path, model_with(tensor=external(location)))


def test_weights_beside_a_graph_without_data_file_are_refused(tmp_path: Path) -> None:
    message = refusal(tmp_path, model_with(tensor=external()), data_file=None)
    assert 'allows none beside it' in message


@pytest.mark.parametrize(
    'entries',
    [
        {'offset': '-1'},
        {'offset': '1e3'},
        {'offset': ' 1'},
        {'offset': '9' * 5000},
        {'offset': '٣'},
        {'length': '4097'},
        {'offset': '4090', 'length': '16'},
        {'offset': '9223372036854775807', 'length': '1'},
        {'basepath': '/etc'},
        {'prepacked_0': 'x|0;16'},
    ],
)
def test_places_outside_the_data_file_are_refused(tmp_path: Path, entries: dict[str, str]) -> None:
    assert 'weights' in refusal(tmp_path, model_with(tensor=external(**entries)))


def test_a_second_location_is_refused(tmp_path: Path) -> None:
    tensor = external()
    tensor.external_data.add(key='location', value='/etc/passwd')
    assert "two entries 'location'" in refusal(tmp_path, model_with(tensor=tensor))


def test_a_location_that_is_not_marked_external_is_refused_too(tmp_path: Path) -> None:
    tensor = external('/etc/passwd')
    tensor.data_location = TensorProto.DEFAULT
    assert '/etc/passwd' in refusal(tmp_path, model_with(tensor=tensor))


def sparse(values: TensorProto, indices: TensorProto) -> onnx.SparseTensorProto:
    return onnx.SparseTensorProto(values=values, indices=indices, dims=[4])


def hidden_places() -> Iterator[ModelProto]:
    """Give models that hold a foreign location in every place that can hold a tensor."""
    bad, good = external('/etc/passwd'), external()
    for value in (bad, sparse(bad, good), sparse(good, bad)):
        kind = 'value' if value is bad else 'sparse_value'
        node = helper.make_node('Constant', [], ['c'], **{kind: value})
        yield model_with(node)
        yield model_with(branch(branch(node)))
    yield model_with(helper.make_node('Identity', ['x'], ['z'], many=[good, bad]))
    yield model_with(helper.make_node('Identity', ['x'], ['z'], many=[sparse(good, bad)]))
    inner = helper.make_graph([], 'inner', [], [], [bad])
    yield model_with(helper.make_node('Identity', ['x'], ['z'], many=[inner]))
    model = model_with()
    model.graph.sparse_initializer.append(sparse(bad, good))
    yield model


@pytest.mark.parametrize('model', list(hidden_places()))
def test_foreign_locations_are_found_wherever_they_are(tmp_path: Path, model: ModelProto) -> None:
    assert '/etc/passwd' in refusal(tmp_path, model)


@pytest.mark.parametrize(
    ('operator', 'domain'),
    [
        ('Run', 'evil.com'),
        ('TreeEnsemble', 'ai.onnx.ml'),
        ('EPContext', 'com.microsoft'),
        ('PythonOp', 'com.microsoft'),
        ('Relu', 'AI.ONNX'),
    ],
)
def test_foreign_operators_are_refused(tmp_path: Path, operator: str, domain: str) -> None:
    node = helper.make_node(operator, ['x'], ['z'], domain=domain)
    assert f"'{operator}' of '{domain}'" in refusal(tmp_path, model_with(node))
    assert f"'{operator}' of '{domain}'" in refusal(tmp_path, model_with(branch(node)))


def test_functions_and_training_steps_are_refused(tmp_path: Path) -> None:
    model = model_with()
    model.functions.add(name='Relu', domain='')
    assert 'functions' in refusal(tmp_path, model)
    model = model_with()
    model.training_info.add()
    assert 'training' in refusal(tmp_path, model)


def varint(number: int) -> bytes:
    low, rest = number & 0x7F, number >> 7
    return bytes([low | 0x80]) + varint(rest) if rest else bytes([low])


def field(number: int, content: bytes) -> bytes:
    return varint(number << 3 | 2) + varint(len(content)) + content


def nested(levels: int) -> bytes:
    graph = b''
    for _ in range(levels):
        graph = field(1, field(5, field(6, graph)))
    return field(7, graph)


GRAPH = field(7, b'')


@pytest.mark.parametrize(
    'content',
    [
        b'',
        b'no graph at all',
        field(1, b'x'),
        GRAPH + b'\x80' * 11,
        GRAPH + b'\x80',
        GRAPH + b'\x0b\x0c',
        GRAPH + b'\x00\x00',
        GRAPH + b'\x12\x7f',
        GRAPH + b'\x11\x00',
        varint(7 << 3) + b'\x01',
        # Field 7 + 2^29, of which a library that keeps 32 bits of a tag makes field 7.
        GRAPH + varint((7 + (1 << 29)) << 3 | 2) + b'\x00',
        field(7, field(1, varint(7 << 3) + b'\x01')),
        field(7, field(5, varint(13 << 3) + b'\x01')),
        nested(1000),
        b'\x08\x0a' * (MAX_FIELDS + 1),
    ],
)
def test_what_is_no_graph_is_refused_soon(tmp_path: Path, content: bytes) -> None:
    begin = time.monotonic()
    refusal(tmp_path, content)
    assert time.monotonic() - begin < 20


def test_a_missing_graph_or_data_file_gets_one_line(tmp_path: Path) -> None:
    check(tmp_path, model_with())
    for file in (DATA_FILE, 'graph.onnx'):
        (tmp_path / file).unlink()
        with pytest.raises(BundleError, match=r'cannot be read') as caught:
            check_graph_file(tmp_path, GraphInfo('graph.onnx', '', (), (), DATA_FILE, ''))
        assert str(caught.value).isprintable()


def test_weights_are_stepped_over(tmp_path: Path) -> None:
    size = 2_000_000_000  # a file full of holes: no disk, and no time to read it
    head = b'\x10\x01' + varint(9 << 3 | 2) + varint(size)
    head = varint(5 << 3 | 2) + varint(len(head) + size) + head
    with (tmp_path / 'graph.onnx').open('wb') as file:
        file.write(varint(7 << 3 | 2) + varint(len(head) + size) + head)
        file.truncate(file.tell() + size)
    begin = time.monotonic()
    check_graph_file(tmp_path, GraphInfo('graph.onnx', '', (), (), None, None))
    assert time.monotonic() - begin < 1


def tensors_of(graph: onnx.GraphProto) -> Iterator[TensorProto]:
    """Give every tensor of a graph as protobuf's own library reads it."""
    yield from graph.initializer
    for value in graph.sparse_initializer:
        yield from (value.values, value.indices)
    for node in graph.node:
        for attribute in node.attribute:
            yield from (attribute.t, *attribute.tensors)
            for value in (attribute.sparse_tensor, *attribute.sparse_tensors):
                yield from (value.values, value.indices)
            for inner in (*([attribute.g] if attribute.HasField('g') else []), *attribute.graphs):
                yield from tensors_of(inner)


def reads_elsewhere(tensor: TensorProto) -> bool:
    found = {entry.key: entry.value for entry in tensor.external_data}
    is_external = tensor.data_location == TensorProto.EXTERNAL or bool(found)
    return is_external and found.get('location') != DATA_FILE


def sources() -> list[Callable[[], ModelProto]]:
    return [
        lambda: model_with(tensor=external(offset='16', length='16')),
        lambda: model_with(branch(helper.make_node('Constant', [], ['c'], value=external()))),
        *(lambda model=model: model for model in hidden_places()),
    ]


def test_mutants_that_pass_read_nothing_else_in_protobufs_own_eyes(tmp_path: Path) -> None:
    random = np.random.default_rng(7)
    passed = 0
    for source in sources():
        sound = source().SerializeToString()
        for _ in range(300):
            content = mutated(sound, np.arange(len(sound)), random)
            try:
                check(tmp_path, content)
            except BundleError as error:
                assert str(error).isprintable()
                continue
            model = ModelProto()
            try:
                model.ParseFromString(content)
            except Exception:  # protobuf refuses more, such as text that is no text
                continue
            passed += 1
            assert not any(reads_elsewhere(tensor) for tensor in tensors_of(model.graph))
            domains = {node.domain for node in model.graph.node}
            assert domains <= {'', 'ai.onnx', 'com.microsoft'}
    assert passed > 100
