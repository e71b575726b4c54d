# Copyright 2026 qvggt_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""A damaged, foreign or lying bundle is refused in one line, by manifest or by self-check."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
from bundle_forgery import Content, edit, golden_with, move_weights_out, resign, signed
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from small_networks import small_bundle

from qvggt_ros.engine import Engine, WindowOutput, open_bundle
from qvggt_ros.engine.manifest import read_manifest, write_manifest
from qvggt_ros.engine.self_check import self_check
from qvggt_ros.errors import BundleError, EngineError, QvggtError

FILES = ('encoder.onnx', 'window.onnx', 'depth.onnx', 'golden.npz')


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Return a sound bundle of one's own to damage."""
    return Path(shutil.copytree(small_bundle(), tmp_path / 'bundle'))


def refusal(folder: Path, kind: type[QvggtError] = BundleError) -> str:
    """Return the one line with which opening a bundle is refused."""
    with pytest.raises(kind) as caught:
        open_bundle(folder)
    message = str(caught.value)
    assert '\n' not in message and str(folder) in message
    return message


def test_a_manifest_survives_writing_and_reading(folder: Path) -> None:
    manifest = read_manifest(folder)
    write_manifest(folder, manifest)
    assert read_manifest(folder) == manifest
    open_bundle(folder)


def test_a_folder_without_manifest_is_no_bundle(tmp_path: Path) -> None:
    assert 'is not a bundle' in refusal(tmp_path)
    assert 'is not a bundle' in refusal(tmp_path / 'none')


@pytest.mark.parametrize('file', FILES)
def test_a_missing_file_is_named(folder: Path, file: str) -> None:
    (folder / file).unlink()
    assert file in refusal(folder) and 'missing' in refusal(folder)


@pytest.mark.parametrize('file', FILES)
def test_one_changed_byte_is_noticed(folder: Path, file: str) -> None:
    content = bytearray((folder / file).read_bytes())
    content[len(content) // 2] ^= 1
    (folder / file).write_bytes(content)
    assert file in refusal(folder) and 'SHA-256' in refusal(folder)


def test_an_edited_manifest_is_noticed(folder: Path) -> None:
    path = folder / 'manifest.json'
    path.write_text(path.read_text().replace('"window_frames": 3', '"window_frames": 4'))
    assert 'changed after the bundle was built' in refusal(folder)


@pytest.mark.parametrize('version', [0, 2, 4, '3', None, True])
def test_another_schema_is_refused(folder: Path, version: object) -> None:
    edit(folder, lambda content: content.update(schema_version=version))
    assert 'schema_version' in refusal(folder)


@pytest.mark.parametrize(
    'file',
    [
        '../encoder.onnx',
        '/etc/passwd',
        'a/b',
        '..',
        '',
        'a\0b',
        'a\nb.onnx',
        'x.ort',
        '.onnx',
        '-x.onnx',
    ],
)
def test_paths_out_of_the_bundle_are_refused(folder: Path, file: str) -> None:
    shutil.copy(folder / 'encoder.onnx', folder.parent / 'encoder.onnx')
    edit(folder, lambda content: content['graphs']['encoder'].update(file=file))
    assert 'graphs.encoder.file' in refusal(folder)


@pytest.mark.parametrize('file', [*FILES, 'manifest.json'])
def test_a_link_out_of_the_bundle_is_refused(folder: Path, file: str) -> None:
    outside = shutil.move(folder / file, folder.parent / file)
    (folder / file).symlink_to(outside)
    assert f'{file!r} lies outside the bundle, or is a link' in refusal(folder)


def test_a_link_within_the_bundle_is_refused_too(folder: Path) -> None:
    # What lies beside the linked graph was not checked.
    (folder / 'inner').mkdir()
    inner = shutil.move(folder / 'encoder.onnx', folder / 'inner' / 'encoder.onnx')
    (folder / 'encoder.onnx').symlink_to(inner)
    assert 'is a link' in refusal(folder)


def test_links_to_nothing_and_to_themselves_are_refused(folder: Path) -> None:
    for target in ('nowhere', 'encoder.onnx'):
        (folder / 'encoder.onnx').unlink()
        (folder / 'encoder.onnx').symlink_to(target)
        assert 'encoder.onnx' in refusal(folder)


@pytest.mark.parametrize('file', ['encoder.onnx', 'manifest.json'])
def test_what_is_no_plain_file_is_never_waited_for(folder: Path, file: str) -> None:
    (folder / file).unlink()
    os.mkfifo(folder / file)
    assert file in refusal(folder)
    (folder / file).unlink()
    (folder / file).mkdir()
    assert file in refusal(folder)


def test_the_bundle_itself_may_be_reached_by_a_link(folder: Path) -> None:
    (folder.parent / 'link').symlink_to(folder)
    open_bundle(folder.parent / 'link')


@pytest.mark.parametrize(
    ('change', 'key'),
    [
        (lambda c: c.pop('precision'), 'precision'),
        (lambda c: c.update(colour='red'), 'colour'),
        (lambda c: c.update(window_frames=0), 'window_frames'),
        (lambda c: c.update(window_frames=3.0), 'window_frames'),
        (lambda c: c.update(image_width=36), 'image_width'),
        (lambda c: c.update(name=None), 'name'),
        (lambda c: c.update(checkpoint_sha256='abc'), 'checkpoint_sha256'),
        (lambda c: c['graphs'].pop('depth'), 'graphs'),
        (lambda c: c['graphs'].update(extra={}), 'graphs'),
        (lambda c: c['graphs']['depth'].update(inputs={}), 'graphs.depth.inputs'),
        (lambda c: c['graphs']['depth']['inputs'][1].pop('unit'), r'inputs[1].unit'),
        (lambda c: c['graphs']['depth'].update(data_file='x'), 'data_sha256'),
        (lambda c: c['golden']['tolerances'].pop('depth'), 'golden.tolerances'),
        (lambda c: c['golden']['tolerances'].update(depth=-1), 'golden.tolerances.depth'),
        (lambda c: c['golden']['tolerances'].update(depth=float('nan')), 'NaN is not a finite'),
        (lambda c: c['golden']['errors'].update(depth=10**400), 'golden.errors.depth'),
        (lambda c: c['tool_versions'].update(torch=2), 'tool_versions.torch'),
        (lambda c: c['tool_versions'].update({'a\nb': ''}), 'a key of tool_versions'),
        (lambda c: c.update({'a\nb': ''}), r"'a\nb' is not known"),
        (lambda c: c.update(name='a\x1b[2J'), 'name'),
        (lambda c: c.update(image_width=35 * 10**9), 'image_width'),
        (lambda c: c['model_config'].update(taps=[[1]]), 'model_config.taps'),
        (lambda c: c['graphs']['encoder']['inputs'][0].update(name='x'), 'encoder.inputs'),
        (lambda c: c['graphs']['encoder']['outputs'].pop(), 'graphs.encoder.outputs'),
        (lambda c: c['graphs']['depth']['outputs'][0].update(dtype='float64'), '[0].dtype'),
        (lambda c: c['graphs']['depth']['outputs'][0].update(shape=['n', 35, 28]), 'depth [35'),
        (lambda c: c['graphs']['depth']['outputs'][0].update(shape=[3, 28, 35]), 'shape[0]'),
        (lambda c: c['graphs']['depth']['outputs'][0].update(shape=[]), 'shape[0]'),
        (lambda c: c['graphs']['encoder']['outputs'][0].update(shape=['n', 20, 9]), 'tokens'),
        (lambda c: c['graphs']['window']['outputs'][1].update(shape=['n', 19, 64]), 'tap_0'),
    ],
)
def test_every_broken_rule_is_named(
    folder: Path, change: Callable[[Content], object], key: str
) -> None:
    edit(folder, change)
    assert key in refusal(folder)


@pytest.mark.parametrize('text', ['', '{', '[]', 'null', '"x"', '[' * 100_000, '\x00'])
def test_a_manifest_that_is_no_json_object_is_refused(folder: Path, text: str) -> None:
    (folder / 'manifest.json').write_text(text)
    assert 'manifest.json' in refusal(folder)


def test_a_manifest_that_is_huge_is_not_read(folder: Path) -> None:
    with (folder / 'manifest.json').open('wb') as file:
        file.truncate(1 << 34)
    assert 'has more than 16 MB' in refusal(folder)


def test_a_manifest_of_other_bytes_than_text_is_refused(folder: Path) -> None:
    (folder / 'manifest.json').write_bytes(b'\xff\xfe\x00')
    assert 'manifest.json' in refusal(folder)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner),
    max_leaves=8,
)


@settings(
    max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(st.data(), json_values)
def test_any_value_anywhere_is_taken_or_refused_in_one_line(
    tmp_path: Path, data: st.DataObject, value: object
) -> None:
    content = json.loads((small_bundle() / 'manifest.json').read_text())
    place = content
    while True:
        keys = list(place) if isinstance(place, dict) else list(range(len(place)))
        key = data.draw(st.sampled_from(keys))
        deeper = isinstance(place[key], (dict, list)) and len(place[key]) > 0
        if not deeper or data.draw(st.booleans()):
            break
        place = place[key]
    place[key] = value
    (tmp_path / 'manifest.json').write_text(signed(content))
    try:
        read_manifest(tmp_path, verify_files=False)
    except BundleError as error:
        assert '\n' not in str(error)


@pytest.mark.parametrize('keep', [0, 1000, -50])
def test_a_truncated_graph_is_refused(folder: Path, keep: int) -> None:
    path = folder / 'window.onnx'
    path.write_bytes(path.read_bytes()[:keep])
    resign(folder, 'window.onnx')
    assert 'window.onnx' in refusal(folder)


def test_a_graph_of_another_kind_is_refused(folder: Path) -> None:
    shutil.copy(folder / 'depth.onnx', folder / 'window.onnx')
    resign(folder, 'window.onnx')
    assert "inputs are 'tap_0" in refusal(folder, EngineError)


def test_weights_beside_a_graph_are_checked_too(folder: Path) -> None:
    data = move_weights_out(folder)
    open_bundle(folder)
    content = bytearray(data.read_bytes())
    content[len(content) // 2] ^= 1
    data.write_bytes(content)
    assert 'encoder.onnx.data: its SHA-256' in refusal(folder)
    data.unlink()
    assert 'encoder.onnx.data: missing' in refusal(folder)


def test_a_graph_that_reads_weights_from_outside_is_refused(folder: Path) -> None:
    data = move_weights_out(folder, '../weights')
    shutil.copy(folder / '../weights', data)
    assert '../weights' in refusal(folder)


@pytest.mark.parametrize('name', ['pose_enc', 'depth', 'depth_conf'])
def test_numbers_out_of_tolerance_are_refused(folder: Path, name: str) -> None:
    with np.load(folder / 'golden.npz') as file:
        wrong = file[name].copy()
    wrong.flat[7] += 0.01 * np.abs(wrong).max()
    golden_with(folder, **{name: wrong})
    message = refusal(folder, EngineError)
    assert f'{name} differs from the reference by 0.01' in message
    assert 'ONNX Runtime' in message
    open_bundle(folder, self_check=False)


class DepthlessEngine:
    """An engine whose depths are no numbers, as overflow in half precision leaves them."""

    def __init__(self, sound: Engine) -> None:
        self.manifest, self.encode, self.window = sound.manifest, sound.encode, sound.window
        self._depth = sound.depth

    def depth(self, window: WindowOutput, frames: Sequence[int]) -> tuple[np.ndarray, np.ndarray]:
        depth, conf = self._depth(window, frames)
        return np.full_like(depth, np.inf), conf


def test_an_engine_that_returns_no_numbers_is_refused(folder: Path) -> None:
    engine = DepthlessEngine(open_bundle(folder, self_check=False))
    with pytest.raises(EngineError, match='depth of golden window 0 is not finite'):
        self_check(engine, folder, 'this engine')


@pytest.mark.parametrize(
    'changes',
    [
        {'images': np.zeros((1, 3, 28, 35, 3), np.float32)},
        {'images': np.zeros((1, 3, 35, 28, 3), np.uint8)},
        {'pose_enc': np.zeros((2, 3, 8), np.float32)},
        {'depth': np.full((2, 3, 28, 35), np.nan, np.float32)},
        {'images': np.zeros((), np.uint8)},
    ],
)
def test_golden_windows_of_another_kind_are_refused(
    folder: Path, changes: dict[str, np.ndarray]
) -> None:
    golden_with(folder, **changes)
    assert 'golden.npz' in refusal(folder)


def test_a_golden_file_of_another_kind_is_refused(folder: Path) -> None:
    (folder / 'golden.npz').write_bytes(b'not a zip')
    resign(folder, 'golden.npz')
    assert 'golden.npz' in refusal(folder)
