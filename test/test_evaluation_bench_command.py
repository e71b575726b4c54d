# Copyright 2026 qvggt_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""`qvggt bench`: contenders take turns, and ratios are those of the same rounds."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from small_networks import SMALL, lively, small_bundle

from qvggt_ros.cli import main
from qvggt_ros.evaluation.bench_command import Contender, measure, report_of
from qvggt_ros.vggt import save_checkpoint


def test_two_bundles_and_pytorch_are_compared(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = shutil.copytree(small_bundle(), tmp_path / 'other')
    save_checkpoint(tmp_path / 'model.safetensors', lively(SMALL))
    words = ['bench', str(small_bundle()), str(other), '--rounds', '3', '--json']
    assert main([*words, '--torch', str(tmp_path / 'model.safetensors')]) == 0
    report = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert [run['name'] for run in report['runs']] == ['small', 'other', 'torch']
    stages = report['runs'][0]['stages']
    assert set(stages) == {'encoder', 'window', 'depth', 'total'}
    assert 0 < stages['total']['p50_ms'] <= stages['total']['p95_ms'] <= stages['total']['p99_ms']
    assert set(report['speedup']) == {
        'small/other', 'other/small', 'small/torch', 'torch/small', 'other/torch', 'torch/other',
    }  # fmt: skip
    assert all(20 < run['peak_rss_mb'] < 4000 for run in report['runs'])
    assert report['host']['cores'] >= 1 and report['runs'][2]['weights_mb'] > 0


def test_ratios_are_medians_over_rounds_and_warm_up_does_not_count() -> None:
    calls = {'slow': 0, 'fast': 0}

    def stages(name: str, seconds: float) -> dict[str, float]:
        calls[name] += 1
        # The machine gets ten times slower half-way: the ratio does not care.
        drift = 10 if calls[name] > 3 else 1
        return dict.fromkeys(('encoder', 'window', 'depth'), seconds * drift)

    slow = Contender('slow', 'e', 'fp32', lambda: stages('slow', 0.3), 1.0)
    fast = Contender('fast', 'e', 'w8a8', lambda: stages('fast', 0.1), 1.0)
    measure([slow, fast], rounds=4)
    assert calls == {'slow': 6, 'fast': 6} and len(slow.seconds['total']) == 4
    report = report_of([slow, fast], 2, (4, 4))
    assert report['speedup'] == {'slow/fast': 3.0, 'fast/slow': 0.333}


def test_a_network_with_random_weights_competes(capsys: pytest.CaptureFixture[str]) -> None:
    words = ['bench', str(small_bundle()), '--rounds', '1', '--json', '--torch', 'random']
    assert main(words) == 0
    report = json.loads(capsys.readouterr().out.splitlines()[-1])
    parameters = sum(p.numel() for p in lively(SMALL).parameters())
    assert report['runs'][1]['weights_mb'] == pytest.approx(4 * parameters / 1e6, abs=1e-3)


def test_what_a_process_cannot_load_is_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(['bench', str(small_bundle()), '--torch', str(tmp_path / 'none.safetensors')]) == 2
    lines = capsys.readouterr().err.strip().splitlines()
    assert len(lines) == 1 and 'none.safetensors: no such checkpoint' in lines[0]


@pytest.mark.parametrize('words', [['--rounds', '0'], ['--threads', '-1'], ['--frames', '-2']])
def test_numbers_that_make_no_sense_are_refused(
    words: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(['bench', str(small_bundle()), *words]) == 2
    assert 'qvggt bench: --rounds' in capsys.readouterr().err
