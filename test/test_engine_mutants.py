# Copyright 2026 qvggt_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Thousands of damaged bundles: each is loaded rightly or refused in one line, none crashes."""

from __future__ import annotations

import copy
import json
import shutil
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from bundle_forgery import Content, move_weights_out, signed
from file_mutants import mutate_file, mutated
from small_networks import small_bundle

from qvggt_ros.engine.manifest import Manifest, content_digest, read_manifest
from qvggt_ros.errors import BundleError

DEMO = Path(__file__).parent.parent / 'engines' / 'demo'
Place = tuple[str | int, ...]

# What may stand in any place of a manifest, as JSON text: much of it is no JSON.
VALUES = (
    'null', 'true', 'false', '0', '-0', '1', '-1', '0.5', '3.0', '1e3', '-1e-9', '2147483647',
    '2147483648', '18446744073709551616', '1' + 400 * '0', '9' * 5000, '1e999', '-1e999', 'NaN',
    'Infinity', '-Infinity', '""', '"x"', '"a/b"', '"../x"', '"/etc/passwd"', '".."', '"\\u0000"',
    '"\\n"', '"a\\nb"', '"\\ud800"', '"\\u202e"', '"encoder.onnx"', '"manifest.json"',
    '"' + 64 * 'a' + '"', '"' + 300 * 'a' + '.onnx"', '"' + 20_000 * 'x' + '"', '[]', '{}',
    '[{}]', '[null]', '[[]]', '["x"]', '{"a": 1}', '{"a": 1, "a": 2}', '{"": {}}',
    20_000 * '[', 900 * '[' + 900 * ']', 5000 * '{"a":' + '1' + 5000 * '}', '', ',', '"', '\\',
)  # fmt: skip
KEYS = ('', 'x', 'a\nb', '\x1b[2J', '\ud800', 'k' * 100_000)
MARK = '<the mutant>'


@pytest.fixture(scope='module')
def beside(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a bundle that keeps the encoder's weights in a file beside the graph."""
    folder = tmp_path_factory.mktemp('beside') / 'bundle'
    shutil.copytree(small_bundle(), folder)
    move_weights_out(folder)
    return folder


@lru_cache(maxsize=2)
def demo_content() -> Content:
    """Return the quantised demo's manifest with fewer layers, which are all alike."""
    content: Content = json.loads((DEMO / 'manifest.json').read_text())
    del content['manifest_sha256'], content['layers'][2:]
    return content


def places_of(value: Any, place: Place = ()) -> Iterator[Place]:
    """Give the place of everything in JSON content; a list's later items are like its second."""
    if isinstance(value, (dict, list)):
        for key in value if isinstance(value, dict) else range(min(2, len(value))):
            yield (*place, key)
            yield from places_of(value[key], (*place, key))


def at(content: Any, place: Place) -> Any:
    for key in place:
        content = content[key]
    return content


def read_or_refuse(folder: Path, text: str | bytes) -> Manifest | None:
    """Read a manifest; return None where it is refused as it should be."""
    path = folder / 'manifest.json'
    path.write_bytes(text if isinstance(text, bytes) else text.encode('utf-8', 'surrogatepass'))
    try:
        return read_manifest(folder, verify_files=False)
    except BundleError as error:
        message = str(error)
    assert message.isprintable() and message.startswith(str(path)) and len(message) < 1000
    return None


def assert_taken_as_it_stands(manifest: Manifest, content: Content) -> None:
    assert json.loads(json.dumps(asdict(manifest))) == content


def signed_text(content: Content, literal: str) -> str:
    """Return a manifest with JSON text of any kind in the marked place, signed if that can be."""
    text = json.dumps(content).replace(json.dumps(MARK), literal, 1)
    try:
        return signed(json.loads(text))
    except (ValueError, RecursionError):
        return text


def test_the_demos_manifest_is_a_sound_one(tmp_path: Path) -> None:
    manifest = read_or_refuse(tmp_path, signed(demo_content()))
    assert manifest is not None and manifest.layers and manifest.calibration
    assert_taken_as_it_stands(manifest, demo_content())


def test_any_text_in_any_place_of_a_manifest(tmp_path: Path) -> None:
    counts: Counter[bool] = Counter()
    for place in places_of(demo_content()):
        for literal in VALUES:
            content = copy.deepcopy(demo_content())
            at(content, place[:-1])[place[-1]] = MARK
            text = signed_text(content, literal)
            manifest = read_or_refuse(tmp_path, text)
            counts[manifest is None] += 1
            if manifest is not None:
                content = json.loads(text)
                del content['manifest_sha256']
                assert_taken_as_it_stands(manifest, content)
    # Most places hold no free text.
    assert counts[True] > 5 * counts[False] > 0 and counts.total() > 6000


def test_any_text_in_any_place_without_a_new_digest_is_refused(tmp_path: Path) -> None:
    sound = read_or_refuse(tmp_path, signed(demo_content()))
    digest = content_digest(demo_content())
    for place in places_of(demo_content()):
        for literal in ('null', '0', '-1', '"x"', '[]', '1e999'):
            content = {**copy.deepcopy(demo_content()), 'manifest_sha256': digest}
            at(content, place[:-1])[place[-1]] = MARK
            text = json.dumps(content).replace(json.dumps(MARK), literal, 1)
            assert read_or_refuse(tmp_path, text) in (None, sound)


def test_keys_that_are_missing_foreign_or_there_twice_are_refused(tmp_path: Path) -> None:
    free = {('model_config',), ('tool_versions',)}
    for place in [(), *places_of(demo_content())]:
        value = at(demo_content(), place)
        if not isinstance(value, dict):
            continue
        for key in KEYS:
            content = copy.deepcopy(demo_content())
            at(content, place)[key] = 'x'
            manifest = read_or_refuse(tmp_path, signed(content))
            assert manifest is None or place in free
        for key in value:
            content = copy.deepcopy(demo_content())
            inner = at(content, place)
            inner[MARK] = inner.pop(key)
            renamed = signed(content)
            assert read_or_refuse(tmp_path, renamed) is None or place in free
            inner[key] = inner[MARK]
            twice = signed(content).replace(MARK, key)
            assert read_or_refuse(tmp_path, twice) is None
            del inner[key], inner[MARK]
            assert read_or_refuse(tmp_path, signed(content)) is None or place in free


def test_damage_at_every_byte_of_a_manifest(tmp_path: Path) -> None:
    text = signed(demo_content()).encode()
    sound = read_or_refuse(tmp_path, text)
    random = np.random.default_rng(0)
    signed_again = 0
    for place in range(len(text)):
        mutant = mutated(text, np.array([place]), random)
        # The digest stays as it was: only a mutant that means the same is taken.
        assert read_or_refuse(tmp_path, mutant) in (None, sound)
        try:
            content = json.loads(mutant)
            again = signed(content)
        except (ValueError, AttributeError):
            continue
        signed_again += 1
        manifest = read_or_refuse(tmp_path, again)
        if manifest is not None:
            del content['manifest_sha256']
            assert_taken_as_it_stands(manifest, content)
    assert len(text) > 4000 and signed_again > 250


def test_damaged_files_under_their_old_digests_are_refused_as_such(
    beside: Path, tmp_path: Path
) -> None:
    folder = Path(shutil.copytree(beside, tmp_path / 'mutant'))
    for seed in range(200):
        name = mutate_file(beside, folder, seed)
        if (folder / name).read_bytes() != (beside / name).read_bytes():
            with pytest.raises(BundleError, match='SHA-256') as caught:
                read_manifest(folder)
            assert str(folder / name) in str(caught.value)
        shutil.copy(beside / name, folder / name)


def opened_mutants(bundle: Path, first: int, count: int) -> Counter[str]:
    """Open mutants in a process of their own; return how many were loaded and refused."""
    script = Path(__file__).with_name('file_mutants.py')
    command = [sys.executable, str(script), str(bundle), str(first), str(count)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=600)
    lines = done.stdout.splitlines()
    assert done.returncode == 0, f'{done.returncode} after {lines[-1:]}: {done.stderr[-500:]}'
    assert len(lines) == count and not done.stderr, 'more or less than a line for each mutant'
    outcomes = [line.split(' ', 3)[2] for line in lines]
    faults = [line for line, outcome in zip(lines, outcomes, strict=True) if outcome == 'FAULT']
    assert not faults, faults[:3]
    return Counter(outcomes)


def test_damaged_files_under_new_digests_are_loaded_or_refused(beside: Path) -> None:
    outcomes = opened_mutants(beside, 0, 300)
    assert outcomes['loaded'] > 40 and outcomes['refused'] > 100


@pytest.mark.slow
def test_many_more_damaged_files(beside: Path) -> None:
    for bundle, first in ((beside, 100_000), (small_bundle(), 200_000)):
        outcomes = opened_mutants(bundle, first, 1000)
        assert outcomes['loaded'] and outcomes['refused']
