# Copyright 2026 qvggt_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Built engines reach a runtime only if every byte and every claim about them is right."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from small_networks import small_bundle

from qvggt_ros.engine.built import (
    BUILT_FOLDER,
    engine_file,
    find_key,
    fused_attention,
    manifest_digest,
    read_built,
    this_machine,
)
from qvggt_ros.engine.manifest import (
    GOLDEN_FIGURES,
    GRAPHS,
    Manifest,
    content_digest,
    read_manifest,
)
from qvggt_ros.engine.sidecar import (
    SIDECAR_FILE,
    BuiltGraph,
    EngineKey,
    Sidecar,
    read_sidecar,
    write_sidecar,
)
from qvggt_ros.errors import EngineError

KEY = EngineKey(
    'tensorrt', '10.7.0', 'sm_87', this_machine(), 'w8a8', 'float16', 'pattern', 3, 35, 28
)
BUILT_AT = '2026-01-31T23:59:59Z'
CHECKED = dict.fromkeys(GOLDEN_FIGURES, 0.001)


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    """Return a bundle with what passes for engines: the checks do not care what the bytes mean."""
    bundle = shutil.copytree(small_bundle(), tmp_path / 'small')
    put_engines(bundle, KEY)
    return bundle


def put_engines(bundle: Path, key: EngineKey) -> None:
    manifest = read_manifest(bundle)
    folder = bundle / BUILT_FOLDER / key.name
    folder.mkdir(parents=True)
    graphs = {}
    for name in GRAPHS:
        content = f'engine of {name}'.encode()
        (folder / engine_file(name)).write_bytes(content)
        digest = hashlib.sha256(content).hexdigest()
        graphs[name] = BuiltGraph(digest, manifest.graphs[name].sha256, 1.5)
    write_sidecar(folder, Sidecar(key, manifest_digest(manifest), graphs, BUILT_AT, dict(CHECKED)))


def engines_of(bundle: Path, key: EngineKey, manifest: Manifest | None = None) -> dict[str, bytes]:
    _, engines = read_built(bundle, manifest or read_manifest(bundle), key)
    return dict(engines)


def refusal(bundle: Path, key: EngineKey = KEY, manifest: Manifest | None = None) -> str:
    with pytest.raises(EngineError) as caught:
        engines_of(bundle, key, manifest)
    text = str(caught.value)
    assert '\n' not in text and f'qvggt build-engine {bundle} --engine tensorrt' in text
    return text


def test_engines_come_back_as_they_were_built(bundle: Path) -> None:
    engines = engines_of(bundle, KEY)
    assert engines == {name: f'engine of {name}'.encode() for name in GRAPHS}
    sidecar = read_sidecar(bundle / BUILT_FOLDER / KEY.name)
    assert sidecar.key == KEY and sidecar.self_check == CHECKED and sidecar.built_at == BUILT_AT


def test_an_engine_is_read_when_it_is_its_turn(bundle: Path) -> None:
    """One at a time: together they may be larger than what a robot's memory has left."""
    _, engines = read_built(bundle, read_manifest(bundle), KEY)
    assert next(engines)[0] == 'encoder'
    (bundle / BUILT_FOLDER / KEY.name / engine_file('window')).write_bytes(b'other')
    with pytest.raises(EngineError, match=r'window\.engine: damaged'):
        next(engines)


def test_the_key_is_found_whatever_half_type_was_built(bundle: Path) -> None:
    wanted = replace(KEY, product_type='bfloat16', attention='operator')
    assert find_key(bundle, wanted) == KEY
    with pytest.raises(EngineError, match=r'no engines for this machine, .*sm_86') as caught:
        find_key(bundle, replace(wanted, target='sm_86'))
    assert KEY.name in str(caught.value)


@pytest.mark.parametrize(
    ('version', 'spelling'),
    [('10.3.0.30', 'pattern'), ('10.13', 'pattern'), ('10.14.1', 'operator'), ('11', 'operator')],
)
def test_a_version_without_the_operator_gets_the_pattern(version: str, spelling: str) -> None:
    assert fused_attention('tensorrt', version) == spelling
    assert fused_attention('tensorrt_rtx', '1.7.1.116') == 'operator'


@pytest.mark.parametrize(
    'change',
    [
        {'engine_version': '10.3.0'},
        {'target': 'sm_86'},
        {'machine': 'aarch64'},
        {'product_type': 'bfloat16'},
        {'attention': 'operator'},
        {'frames': 8},
        {'width': 518},
    ],
)
def test_another_machine_is_told_what_there_is_and_what_to_run(
    bundle: Path, change: dict[str, Any]
) -> None:
    other = replace(KEY, **change)
    text = refusal(bundle, other)
    assert f'no engines for this machine, {other.name}' in text and KEY.name in text


def test_engines_under_another_name_are_refused(bundle: Path) -> None:
    """A folder that was copied or renamed does not become an engine for another machine."""
    other = replace(KEY, target='sm_86')
    built = bundle / BUILT_FOLDER
    (built / KEY.name).rename(built / other.name)
    assert f'holds engines for {KEY.name}, not {other.name}' in refusal(bundle, other)


def test_every_changed_byte_of_an_engine_is_noticed(bundle: Path) -> None:
    path = bundle / BUILT_FOLDER / KEY.name / engine_file('window')
    sound = path.read_bytes()
    for place in range(len(sound)):
        path.write_bytes(sound[:place] + bytes([sound[place] ^ 1]) + sound[place + 1 :])
        assert 'window.engine: damaged' in refusal(bundle)
    path.write_bytes(sound[:-1])
    assert 'damaged' in refusal(bundle)
    path.unlink()
    assert 'cannot be read' in refusal(bundle)
    path.symlink_to('/etc/hostname')
    assert 'is a link' in refusal(bundle)


def test_every_changed_byte_of_a_sidecar_is_noticed(bundle: Path) -> None:
    path = bundle / BUILT_FOLDER / KEY.name / SIDECAR_FILE
    sound = path.read_bytes()
    manifest = read_manifest(bundle)
    blank = 0
    for place in range(len(sound)):
        path.write_bytes(sound[:place] + bytes([sound[place] ^ 0x20]) + sound[place + 1 :])
        try:
            engines_of(bundle, KEY, manifest)
        except EngineError as error:
            assert '\n' not in str(error)
        else:
            blank += 1  # white space between values means nothing
            assert sound[place : place + 1].isspace()
    assert blank < 0.2 * len(sound)


def edit(*path: str, value: Any) -> Callable[[dict[str, Any]], None]:
    def change(content: dict[str, Any]) -> None:
        for step in path[:-1]:
            content = content[step]
        content[path[-1]] = value

    return change


@pytest.mark.parametrize(
    ('change', 'words'),
    [
        (edit('version', value=1), 'another version'),
        (edit('key', 'frames', value='3'), 'key.frames'),
        (edit('key', 'frames', value=True), 'key.frames'),
        (edit('key', 'target', value='../../sm_87'), 'key.target'),
        (edit('key', 'more', value=1), 'exactly'),
        (edit('graphs', value=[]), 'exactly'),
        (edit('graphs', 'depth', value=None), 'exactly'),
        (edit('graphs', 'depth', 'sha256', value='x' * 64), 'graphs.depth.sha256'),
        (edit('graphs', 'depth', 'seconds', value=-1), 'graphs.depth.seconds'),
        (edit('graphs', 'depth', 'source_sha256', value='0' * 64), 'another depth graph'),
        (edit('bundle_sha256', value='0' * 64), 'engines of another bundle'),
        (edit('bundle_sha256', value=7), 'bundle_sha256'),
        (edit('built_at', value='yesterday'), 'built_at'),
        (edit('self_check', value={}), 'exactly'),
        (edit('self_check', 'depth', value=None), 'self_check.depth'),
        (edit('self_check', 'depth', value=True), 'self_check.depth'),
        (edit('self_check', 'depth', value=float('nan')), 'self_check.depth'),
    ],
)
def test_a_forged_sidecar_is_refused(
    bundle: Path, change: Callable[[dict[str, Any]], None], words: str
) -> None:
    """Even with a digest that fits."""
    path = bundle / BUILT_FOLDER / KEY.name / SIDECAR_FILE
    content = json.loads(path.read_text())
    content.pop('sha256')
    change(content)
    path.write_text(json.dumps({**content, 'sha256': content_digest(content)}))
    assert words in refusal(bundle)


@pytest.mark.parametrize('text', ['', '[]', 'null', '{', '[' * 100_000, '\ufeff{}'])
def test_a_sidecar_that_is_none_is_refused(bundle: Path, text: str) -> None:
    (bundle / BUILT_FOLDER / KEY.name / SIDECAR_FILE).write_text(text)
    refusal(bundle)


def test_a_link_out_of_the_bundle_is_refused(bundle: Path, tmp_path: Path) -> None:
    folder = bundle / BUILT_FOLDER / KEY.name
    folder.rename(tmp_path / 'elsewhere')
    folder.symlink_to(tmp_path / 'elsewhere')
    with pytest.raises(EngineError, match='lies outside the bundle'):
        engines_of(bundle, KEY)
    folder.unlink()
    shutil.copytree(tmp_path / 'elsewhere', folder)
    (folder / SIDECAR_FILE).unlink()
    (folder / SIDECAR_FILE).symlink_to(tmp_path / 'elsewhere' / SIDECAR_FILE)
    assert 'is a link' in refusal(bundle)
