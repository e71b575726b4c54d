# Copyright 2026 qvggt_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""The demo's path needs nothing of the builder: run where torch and onnx cannot be imported."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import ros_harness  # noqa: F401 (gives this process a DDS domain of its own)
from rosbags.highlevel import AnyReader
from small_networks import small_bundle

from qvggt_ros.synthetic.drive import render_trajectory

# Runs `qvggt` with the words after the first, which is where the demo's own bundle would be.
PROGRAM = """
import sys
from pathlib import Path

class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.partition('.')[0] in ('torch', 'onnx', 'onnxscript', 'safetensors'):
            raise ModuleNotFoundError(f'No module named {name!r}', name=name)

sys.meta_path.insert(0, Absent())
from qvggt_ros import cli
if 'demo' in sys.argv:
    from qvggt_ros.evaluation import demo_command
    demo_command.DEFAULT_BUNDLE = Path(sys.argv[1])
    demo_command.TRAINED_MODEL = Path(sys.argv[1]) / 'model.safetensors'
status = cli.main(sys.argv[2:])
assert 'torch' not in sys.modules
sys.exit(status)
"""


def qvggt(*words: str, bundle: Path = Path('nowhere')) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, '-c', PROGRAM, str(bundle), *words]
    return subprocess.run(command, capture_output=True, text=True, check=False)


@pytest.fixture(scope='module')
def bag(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp('bags') / 'room'
    done = qvggt('synth', 'bag', '--out', str(out), '--frames', '8', '--size', '64x48', '--depth')
    assert done.returncode == 0, done.stderr
    return out


@pytest.mark.parametrize('words', ['', 'synth', 'synth bag', 'demo', 'eval', 'convert'])
def test_help(words: str) -> None:
    done = qvggt(*words.split(), '--help')
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith('usage:')


def test_a_rendered_recording_is_that_of_the_renderer(bag: Path) -> None:
    truth = render_trajectory(10_093, 8, 64, 48, device='numpy')
    with AnyReader([bag]) as reader:
        topics = [c for c in reader.connections if c.topic == '/camera/image_raw']
        messages: list[Any] = [
            reader.deserialize(raw, connection.msgtype)
            for connection, _, raw in reader.messages(topics)
        ]
    found = [message.data.reshape(48, 64, 3) for message in messages]
    assert np.array_equal(np.stack(found).transpose(0, 3, 1, 2), np.asarray(truth.images[0]))


@pytest.mark.parametrize('given', [True, False])
def test_the_demo(bag: Path, tmp_path: Path, given: bool) -> None:
    own = tmp_path / 'demo_bundle'
    shutil.copytree(small_bundle(), own)
    words = ['demo', '--bag', str(bag), '--out', str(tmp_path / 'out')]
    done = qvggt(*words, '--bundle', str(own)) if given else qvggt(*words, bundle=own)
    assert done.returncode == 0, done.stderr
    figures = json.loads((tmp_path / 'out' / 'latency.json').read_text())
    assert figures['frames'] == figures['poses'] == 8


@pytest.mark.parametrize('words', ['synth train', 'synth card', 'synth train --help', 'build'])
def test_the_builders_side_says_what_it_lacks(words: str) -> None:
    done = qvggt(*words.split())
    assert done.returncode == 2
    (line,) = done.stderr.strip().splitlines()
    assert 'needs the Python module' in line
    assert '`make env`' in line


def test_a_demo_that_would_have_to_build_says_so(bag: Path, tmp_path: Path) -> None:
    own = tmp_path / 'engines' / 'demo'
    words = ['demo', '--bag', str(bag), '--out', str(tmp_path / 'out')]
    done = qvggt(*words, bundle=own)
    assert done.returncode == 2
    (line,) = done.stderr.strip().splitlines()
    assert str(own) in line
    assert '`make env`' in line


@pytest.mark.parametrize(
    ('words', 'bundle', 'layers'),
    [
        ('demo', True, 'runtime report'),
        ('demo', False, 'runtime report build'),
        ('demo BUNDLE=engines/other', False, 'runtime report'),
        ('env', True, 'runtime report build test'),
    ],
)
def test_make_installs_the_builder_where_it_is_needed(
    project_dir: Path, tmp_path: Path, words: str, bundle: bool, layers: str
) -> None:
    shutil.copy(project_dir / 'Makefile', tmp_path)
    if bundle:
        (tmp_path / 'engines' / 'demo').mkdir(parents=True)
        (tmp_path / 'engines' / 'demo' / 'manifest.json').touch()
    command = ['make', '--dry-run', '--no-print-directory', '-C', str(tmp_path), *words.split()]
    # The tests may run under a make of their own.
    environment = {name: value for name, value in os.environ.items() if 'MAKE' not in name}
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=environment)
    (installing,) = (line for line in done.stdout.splitlines() if 'make_env.py' in line)
    assert installing.rpartition('make_env.py ')[2].strip() == layers
