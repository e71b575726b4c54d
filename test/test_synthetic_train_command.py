# Copyright 2026 qvggt_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""`qvggt synth train`: trains, goes on where it ended, and ends when it is told to."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from small_training import ShortConfig

from qvggt_ros.cli import main
from qvggt_ros.synthetic import train_command
from qvggt_ros.synthetic.train_checkpoint import load_run
from qvggt_ros.vggt import VGGTConfig, load_model

# Seconds in place of hours.
SHORT = ['--ring', '16', '--frames-per-step', '4', '--minutes', '0.02', '--device', 'cpu']
TIMEOUT_S = 120


def train(run: Path, *words: str) -> int:
    return main(['synth', 'train', '--run', str(run), *SHORT, *words])


def entries(run: Path) -> list[dict[str, float | str]]:
    lines = run.with_suffix('.jsonl').read_text().splitlines()
    return [json.loads(line) for line in lines]


@pytest.fixture(autouse=True)
def _process(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Leave the tests' own process as it was: how it ends and what it does with memory."""
    monkeypatch.setattr(train_command, 'keep_freed_memory', lambda: True)
    before = signal.getsignal(signal.SIGTERM)
    yield
    signal.signal(signal.SIGTERM, before)


@pytest.mark.slow
def test_a_run_trains_resumes_and_is_interrupted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(train_command, 'TrainConfig', ShortConfig)
    run, out = tmp_path / 'run.safetensors', tmp_path / 'model.safetensors'
    assert train(run, '--processes', '1', '--out', str(out)) == 0
    _, first, config = load_run(run)
    assert first.step >= 1 and first.windows >= first.step
    assert config == VGGTConfig.demo().to_dict()
    assert load_model(out).config == VGGTConfig.demo()

    assert train(run, '--processes', '2', '--out', str(out), '--cooldown') == 0
    groups, second, _ = load_run(run)
    assert second.step > first.step and second.seconds > first.seconds
    average = groups['average']
    for name, value in load_model(out).state_dict().items():
        torch.testing.assert_close(value, average[name], rtol=1e-3, atol=1e-4)
    found = entries(run)
    assert {entry['kind'] for entry in found} == {'loss', 'validation'}
    assert [e['windows'] for e in found if e['kind'] == 'validation'] == [
        first.windows,
        second.windows,
    ]

    check_an_interrupt(run)
    _, third, _ = load_run(run)
    assert third.step == second.step  # it was told to end before the first checkpoint
    assert sorted(item.name for item in tmp_path.iterdir()) == [
        'model.safetensors',
        'run.jsonl',
        'run.safetensors',
    ]


def check_an_interrupt(run: Path) -> None:
    """Start the command by itself, with two processes, and end it once it trains."""
    known = len(entries(run))
    program = 'import sys; from qvggt_ros.cli import main; sys.exit(main())'
    words = ['synth', 'train', '--run', str(run), *SHORT, '--minutes', '9', '--processes', '2']
    command = subprocess.Popen(
        [sys.executable, '-c', program, *words],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        deadline = time.monotonic() + TIMEOUT_S
        while len(entries(run)) == known and time.monotonic() < deadline:
            time.sleep(0.2)
        children = children_of(command.pid)
        assert len(children) >= 2
        command.send_signal(signal.SIGTERM)
        # The pipe closes when the last of the processes is gone.
        _, errors = command.communicate(timeout=TIMEOUT_S)
    finally:
        command.kill()
    assert (command.returncode, errors) == (130, 'qvggt synth: interrupted\n')
    deadline = time.monotonic() + 10
    while any(is_running(pid) for pid in children) and time.monotonic() < deadline:
        time.sleep(0.1)  # Python's own helper notices a moment later
    assert not [pid for pid in children if is_running(pid)]


def children_of(parent: int) -> list[int]:
    found = Path(f'/proc/{parent}/task/{parent}/children').read_text()
    return [int(word) for word in found.split()]


def is_running(pid: int) -> bool:
    try:
        return Path(f'/proc/{pid}/stat').read_text().rpartition(')')[2].split()[0] not in 'ZX'
    except OSError:
        return False


@pytest.mark.slow
def test_what_a_process_finds_wrong_is_one_line(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / 'run.safetensors'
    run.write_text('not a run')
    assert train(run, '--processes', '2') == 2
    error = capfd.readouterr().err
    assert error.startswith(f'qvggt synth: {run}: not a training checkpoint')
    assert error.count('\n') == 1
    assert run.read_text() == 'not a run'


@pytest.mark.parametrize(
    ('words', 'message'),
    [
        (['--minutes', '0'], '--minutes 0.0: must be positive'),
        (['--minutes', 'nan'], '--minutes nan: must be positive'),
        (['--minutes', 'inf'], '--minutes inf: must be positive'),
        (['--ring', '0'], '--ring 0: must be positive'),
        (['--frames-per-step', '-1'], '--frames-per-step -1: must be positive'),
        (['--uses-per-window', '0'], '--uses-per-window 0.0: must be positive'),
        (['--learning-rate', '0'], '--learning-rate 0.0: must be positive'),
        (['--processes', '0'], '--processes 0: must be positive'),
        (['--device', 'abacus'], '--device abacus: cannot be used'),
        (['--out', 'model.pt'], '--out model.pt: must end in .safetensors'),
    ],
)
def test_wrong_arguments_are_one_line_and_leave_nothing(
    words: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert train(tmp_path / 'run.safetensors', *words) == 2
    error = capsys.readouterr().err
    assert message in error and error.count('\n') == 1
    assert not list(tmp_path.iterdir())


def test_a_run_file_has_its_ending(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert train(tmp_path / 'run.jsonl') == 2
    assert 'must end in .safetensors' in capsys.readouterr().err


def test_a_run_that_begins_with_missing_weights_says_so(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ('--processes', '1', '--init', str(tmp_path / 'absent.safetensors'))
    assert train(tmp_path / 'run.safetensors', *words) == 2
    assert 'absent.safetensors: no such checkpoint file' in capsys.readouterr().err
