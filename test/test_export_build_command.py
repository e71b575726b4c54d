# Copyright 2026 qvggt_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""`qvggt build`: from arguments to a bundle, or to one line and status 2."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from small_networks import SMALL, SMALL_SIZE, lively

from qvggt_ros.cli import main
from qvggt_ros.engine import open_bundle
from qvggt_ros.engine.manifest import file_digest
from qvggt_ros.export import build_command
from qvggt_ros.export.build_command import ModelPreset
from qvggt_ros.vggt import save_checkpoint


@pytest.fixture
def small_preset(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let `demo` stand for the tests' small network."""
    preset = ModelPreset(SMALL, SMALL_SIZE, Path('engines/demo/model.safetensors'))
    monkeypatch.setattr(build_command, 'presets', lambda: {'demo': preset})


@pytest.mark.slow
@pytest.mark.usefixtures('small_preset')
def test_a_checkpoint_becomes_a_bundle(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    checkpoint = tmp_path / 'engines' / 'demo' / 'model.safetensors'
    save_checkpoint(checkpoint, lively(SMALL))
    assert main(['build', '--frames', '2', '--out', 'engines/demo', '--json']) == 0
    shown = capsys.readouterr()
    result = json.loads(shown.out.splitlines()[-1])
    assert result['name'] == 'demo' and max(result['errors'].values()) < 1e-4
    assert 'window graph' in shown.err
    manifest = open_bundle('engines/demo').manifest
    assert manifest.window_frames == 2
    assert manifest.checkpoint_sha256 == file_digest(checkpoint)
    assert sorted(item.name for item in Path('engines').iterdir()) == ['demo']


@pytest.mark.parametrize(
    ('arguments', 'complaint'),
    [
        (['--precision', 'w4a4'], '--precision w4a4: is simulated only'),
        (['--frames', '0'], '--frames 0'),
        (['--size', '113x84'], '113x84'),
        (['--size', 'big'], "--size 'big'"),
        (['--model', 'vggt-1b'], '--model vggt-1b: give --checkpoint'),
        (['--checkpoint', 'none.safetensors'], 'none.safetensors: no such checkpoint'),
        ([], 'no trained demo model here'),
    ],
)
def test_bad_arguments_get_one_line_and_status_2(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
    complaint: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(['build', '--out', 'engines/new', *arguments]) == 2
    lines = [line for line in capsys.readouterr().err.splitlines() if 'qvggt build:' in line]
    assert len(lines) == 1 and complaint in lines[0]
    assert not list(tmp_path.iterdir())


def test_a_checkpoint_of_other_sizes_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / 'small.safetensors'
    save_checkpoint(path, lively(SMALL))
    assert main(['build', '--checkpoint', str(path), '--out', str(tmp_path / 'new')]) == 2
    assert 'other sizes than --model demo' in capsys.readouterr().err
    assert [item.name for item in tmp_path.iterdir()] == ['small.safetensors']


def test_presets_can_be_built() -> None:
    for preset in build_command.presets().values():
        assert preset.config.grid(*preset.size)
        assert not preset.config.point_head and not preset.config.track_head
