# Copyright 2026 qvggt_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Drives through rendered rooms, with the committed engine."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from qvggt_ros.cli import main
from qvggt_ros.evaluation import drive_command
from qvggt_ros.evaluation.sequence_error import sequence_error

BUNDLE = Path(__file__).parent.parent / 'engines' / 'demo'


def figures(capsys: pytest.CaptureFixture[str], *arguments: str) -> Any:
    assert main(['drive-error', *arguments, '--json']) == 0
    return json.loads(capsys.readouterr().out.splitlines()[-1])


def test_means_are_over_the_drives(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    found = []

    def noted(*args: Any, **named: Any) -> dict[str, float]:
        found.append(sequence_error(*args, **named))
        return found[-1]

    monkeypatch.setattr(drive_command, 'sequence_error', noted)
    printed = figures(capsys, str(BUNDLE), '--drives', '2', '--frames', '12')
    assert printed['drives'] == 2 and printed['frames'] == 12
    assert printed['ate_share'] == pytest.approx(sum(f['ate_share'] for f in found) / 2)
    assert 0 < printed['ate_share'] < 0.3


def test_options_reach_the_reconstruction(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = []

    def noted(engine: Any, sequence: Any, config: Any, **named: Any) -> dict[str, float]:
        seen.append(config)
        return sequence_error(engine, sequence, config, **named)

    monkeypatch.setattr(drive_command, 'sequence_error', noted)
    few = (str(BUNDLE), '--drives', '1', '--frames', '8')
    figures(capsys, *few, '--in-order', '--align-by', 'points', '--stride', '1')
    (config,) = seen
    assert not config.alternate_order and config.stride == 1
    assert config.alignment.rigid_from == 'points'


def test_a_checkpoint_is_driven_too(capsys: pytest.CaptureFixture[str]) -> None:
    few = ('--drives', '1', '--frames', '6')
    float_network = figures(capsys, str(BUNDLE / 'model.safetensors'), *few)
    engine = figures(capsys, str(BUNDLE), *few)
    assert float_network['ate_rmse_m'] == pytest.approx(engine['ate_rmse_m'], rel=0.2, abs=0.01)


@pytest.mark.parametrize(
    ('arguments', 'message'),
    [
        (['nothing.safetensors'], 'nothing.safetensors: no such bundle or checkpoint'),
        ([str(BUNDLE), '--drives', '0'], '--drives 0: must be at least 1'),
        ([str(BUNDLE), '--seed', '5'], 'room 5: test rooms have seeds from 10000 up'),
        ([str(BUNDLE), '--frames', '2'], 'room 10000: sequence of 2 frames: must have at least 3'),
    ],
)
def test_bad_arguments_are_named(
    capsys: pytest.CaptureFixture[str], arguments: list[str], message: str
) -> None:
    assert main(['drive-error', *arguments]) == 2
    assert message in capsys.readouterr().err
