# Copyright 2026 qvggt_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""`qvggt build --precision`: from a checkpoint and a calibration source to a bundle that runs."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from small_networks import SMALL, SMALL_SIZE, lively

from qvggt_ros.cli import main
from qvggt_ros.engine import open_bundle
from qvggt_ros.engine.self_check import golden_errors, read_golden
from qvggt_ros.errors import EngineError
from qvggt_ros.export import build_command
from qvggt_ros.export.build_command import ModelPreset
from qvggt_ros.vggt import save_checkpoint

QUICK = ['--candidates', '6', '--samples', '4', '--frames', '3', '--fast']


@pytest.fixture
def workplace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Let `demo` stand for the tests' small network, with a checkpoint in an empty folder."""
    preset = ModelPreset(SMALL, SMALL_SIZE, Path('model.safetensors'))
    monkeypatch.setattr(build_command, 'presets', lambda: {'demo': preset})
    monkeypatch.chdir(tmp_path)
    save_checkpoint(tmp_path / 'model.safetensors', lively(SMALL))
    return tmp_path


def build(*words: str) -> int:
    return main(['build', *QUICK, *words])


@pytest.mark.slow
@pytest.mark.parametrize('precision', ['w8a8', 'w4a16'])
def test_a_quantised_bundle_is_built_and_proves_itself(
    workplace: Path, capsys: pytest.CaptureFixture[str], precision: str
) -> None:
    assert build('--precision', precision, '--out', 'small', '--json') == 0
    shown = capsys.readouterr()
    result = json.loads(shown.out.splitlines()[-1])
    assert result['precision'] == precision and result['method'] == 'dsfq'
    assert 'where' in shown.out and 'calibration: 4 of 6 windows' in shown.err
    engine = open_bundle('small')
    manifest = engine.manifest
    assert manifest.calibration is not None and manifest.calibration.windows == 4
    assert 0 < manifest.calibration.added_macs_share < 0.05
    assert {layer.weight_bits for layer in manifest.layers} == (
        {8} if precision == 'w8a8' else {4, 8}
    )
    assert 0 < manifest.golden.errors['pose_enc'] < 0.2
    # Nothing is left beside it: no half-written bundle, no calibration state.
    assert sorted(p.name for p in workplace.iterdir()) == ['model.safetensors', 'small']


@pytest.mark.slow
def test_a_quantised_engine_with_other_weights_is_refused(workplace: Path) -> None:
    assert build('--precision', 'w8a8', '--out', 'small') == 0
    save_checkpoint(workplace / 'other.safetensors', lively(SMALL, seed=1))
    assert build('--precision', 'w8a8', '--out', 'other', '--checkpoint', 'other.safetensors') == 0
    sound, other = open_bundle('small'), open_bundle('other')
    golden = read_golden(Path('small'), sound.manifest)
    errors = golden_errors(other, golden)
    assert any(errors[k] > sound.manifest.golden.tolerances[k] for k in errors)
    swapped = {**golden, 'images': np.ascontiguousarray(golden['images'][:, ::-1])}
    errors = golden_errors(sound, swapped)
    assert any(errors[k] > sound.manifest.golden.tolerances[k] for k in errors)
    with pytest.raises(EngineError, match='no_engine'):
        open_bundle('small', engine='no_engine')


@pytest.mark.parametrize(
    ('words', 'complaint'),
    [
        (['--precision', 'w4a4'], '--precision w4a4: is simulated only'),
        (['--precision', 'w8a8', '--frames', '1'], '--frames 1: calibration compares frames'),
        (['--precision', 'w8a8', '--calibration', 'no/such.bag'], 'no/such.bag'),
        (['--precision', 'w8a8', '--samples', '0'], 'samples'),
    ],
)
def test_bad_requests_get_one_line_and_leave_nothing(
    workplace: Path, capsys: pytest.CaptureFixture[str], words: list[str], complaint: str
) -> None:
    assert build('--out', 'small', *words) == 2
    lines = [line for line in capsys.readouterr().err.splitlines() if 'qvggt build:' in line]
    assert len(lines) == 1 and complaint in lines[0]
    assert sorted(p.name for p in workplace.iterdir()) == ['model.safetensors']


def test_a_dry_run_prints_the_plan_and_makes_nothing(
    workplace: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert build('--precision', 'w8a8', '--out', 'small', '--dry-run') == 0
    shown = capsys.readouterr().out
    assert 'aggregator.global_blocks.3.mlp.fc2' in shown and 'static int8 offset' in shown
    assert 'MB in w8a8 (0.' in shown
    assert sorted(p.name for p in workplace.iterdir()) == ['model.safetensors']


FULL_DISK = """
import resource, sys
from pathlib import Path
from small_networks import SMALL, SMALL_SIZE
from qvggt_ros.cli import main
from qvggt_ros.export import build_command
preset = build_command.ModelPreset(SMALL, SMALL_SIZE, Path('model.safetensors'))
build_command.presets = lambda: {'demo': preset}
resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[1]), resource.RLIM_INFINITY))
sys.exit(main(['build', *sys.argv[2:]]))
"""


@pytest.mark.slow
@pytest.mark.parametrize('most_bytes', [200, 60_000])
def test_a_disk_that_is_full_ends_in_one_line_and_the_next_build_goes_on(
    workplace: Path, most_bytes: int
) -> None:
    """No file may grow beyond a limit: the system's refusal is the same as of a full disk."""
    words = [*QUICK, '--precision', 'w8a8', '--out', 'small']
    environment = {**os.environ, 'PYTHONPATH': str(Path(__file__).parent)}
    done = subprocess.run(
        [sys.executable, '-c', FULL_DISK, str(most_bytes), *words],
        capture_output=True,
        text=True,
        env=environment,
        check=False,
    )
    assert done.returncode == 2, done.stderr
    lines = [line for line in done.stderr.splitlines() if 'qvggt build:' in line]
    assert len(lines) == 1 and 'cannot be written' in lines[0]
    assert 'Traceback' not in done.stderr
    # Finished steps may stay, to go on from; no half of a bundle does.
    left = {path.name for path in workplace.iterdir()}
    assert left <= {'model.safetensors', '.small.calibration'}
    assert build('--precision', 'w8a8', '--out', 'small') == 0
    assert {path.name for path in workplace.iterdir()} == {'model.safetensors', 'small'}
