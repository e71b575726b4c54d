# Copyright 2026 qvggt_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""`qvggt block-speed` runs, and its ratios are those of the same rounds."""

from __future__ import annotations

import json

import pytest

from qvggt_ros.cli import main
from qvggt_ros.evaluation.block_speed import report_of


@pytest.mark.slow
def test_four_contenders_are_timed(capsys: pytest.CaptureFixture[str]) -> None:
    words = ['block-speed', '--width', '64', '--grid', '3x2', '--rounds', '2', '--json']
    assert main(words) == 0
    report = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert report['tokens'] == 11 and len(report['p50_ms']) == 4
    assert 'ONNX Runtime float32 / ONNX Runtime w8a8 dsfq' in report['speedup']
    assert all(value > 0 for value in report['p50_ms'].values())


def test_ratios_are_medians_over_rounds() -> None:
    report = report_of({'a': [1.0, 10.0, 2.0], 'b': [0.5, 5.0, 0.5]}, 4, 280, 1024)
    assert report['speedup'] == {'a / b': 2.0} and report['p50_ms'] == {'a': 2000.0, 'b': 500.0}


@pytest.mark.parametrize('words', [['--grid', '25'], ['--width', '100'], ['--rounds', '0']])
def test_sizes_that_make_no_sense_are_refused(
    words: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(['block-speed', *words]) == 2
    assert 'qvggt block-speed: --' in capsys.readouterr().err
