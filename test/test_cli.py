# Copyright 2026 qvggt_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""The `qvggt` command itself: what it sets up, and what it says where it cannot go on."""

from __future__ import annotations

import os

import pytest

from qvggt_ros.cli import COMMANDS, main


def test_idle_threads_do_not_spin(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv('OMP_WAIT_POLICY', raising=False)
    with pytest.raises(SystemExit):
        main(['--version'])
    assert os.environ['OMP_WAIT_POLICY'] == 'passive'
    monkeypatch.setenv('OMP_WAIT_POLICY', 'active')
    with pytest.raises(SystemExit):
        main(['--version'])
    assert os.environ['OMP_WAIT_POLICY'] == 'active'


def test_help_names_every_command(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(['--help'])
    assert ended.value.code == 0
    printed = capsys.readouterr().out
    assert all(name in printed for name in COMMANDS)


def test_a_missing_package_is_named(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(COMMANDS, 'plan', ('no_such_package.command', 'is not there'))
    assert main(['plan']) == 2  # imported before its arguments are read
    assert 'needs the Python module no_such_package' in capsys.readouterr().err


def test_an_interruption_has_the_shells_status(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupt(*_: object) -> int:
        raise KeyboardInterrupt

    monkeypatch.setattr('qvggt_ros.evaluation.plan_command.run', interrupt)
    assert main(['plan', '--model', 'demo', '--device', 'cpu']) == 130
    assert capsys.readouterr().err == 'qvggt plan: interrupted\n'
