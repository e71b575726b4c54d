# Copyright 2026 qvggt_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""The table of methods: rows are measured once, kept, and printed as Markdown."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from small_networks import SMALL, lively

from qvggt_ros.cli import main
from qvggt_ros.vggt import save_checkpoint


def table(path: Path, *words: str) -> int:
    model = path / 'model.safetensors'
    if not model.exists():
        save_checkpoint(model, lively(SMALL))
    fixed = ['--windows', '3', '--drive', '0', '--fast', '--out', str(path / 'rows.json')]
    return main(['quantization-table', '--model', str(model), *fixed, *words])


@pytest.mark.slow
def test_rows_are_kept_and_not_measured_again(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert table(tmp_path, '--precisions', 'w8a8', '--methods', 'rtn') == 0
    first = json.loads((tmp_path / 'rows.json').read_text())
    assert len(first) == 1
    row = next(iter(first.values()))
    assert row['precision'] == 'w8a8' and row['drift_rot_deg_median'] >= 0
    capsys.readouterr()
    assert table(tmp_path, '--precisions', 'w8a8', '--methods', 'rtn,dsfq') == 0
    second = json.loads((tmp_path / 'rows.json').read_text())
    assert len(second) == 2 and all(second[name] == kept for name, kept in first.items())
    shown = capsys.readouterr().out
    assert 'w8a8 rtn nfds' not in shown and 'w8a8 dsfq nfds' in shown
    assert '| w8a8 | dsfq |' in shown and '| float |' in shown


@pytest.mark.parametrize(
    ('words', 'complaint'),
    [
        (['--precisions', 'w2a2'], '--precisions w2a2'),
        (['--methods', 'gptq'], '--methods gptq'),
    ],
)
def test_unknown_names_are_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], words: list[str], complaint: str
) -> None:
    assert table(tmp_path, *words) == 2
    assert complaint in capsys.readouterr().err


def test_a_file_of_another_kind_is_left_alone(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / 'rows.json').write_text('[1, 2]')
    assert table(tmp_path, '--precisions', 'w8a8', '--methods', 'rtn') == 2
    assert 'rows.json: is no table' in capsys.readouterr().err
    assert (tmp_path / 'rows.json').read_text() == '[1, 2]'
