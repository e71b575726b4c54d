# Copyright 2026 qvggt_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""The robot's side starts small: its modules load nothing of the builder's side."""

from __future__ import annotations

import importlib
import pkgutil
import subprocess
import sys

import pytest

OFFLINE_ROOMS = ('vggt', 'quantization', 'export', 'evaluation', 'synthetic')
OFFLINE_PACKAGES = ('torch', 'onnx', 'onnxscript', 'safetensors')
REPORT_PACKAGES = ('matplotlib', 'scipy', 'evo', 'pandas')
NEVER_ONLINE = (*OFFLINE_PACKAGES, *REPORT_PACKAGES, *(f'qvggt_ros.{r}' for r in OFFLINE_ROOMS))
NEVER_WITHOUT_ROS = ('rclpy', 'sensor_msgs', 'geometry_msgs', 'qvggt_ros.node')
LOADED = 'import sys, importlib; [importlib.import_module(m) for m in sys.argv[1:]]; '


def modules_of(room: str) -> list[str]:
    """Return the names of all modules of a room that are really there."""
    package = importlib.import_module(f'qvggt_ros.{room}')
    below = pkgutil.walk_packages(package.__path__, prefix=f'{package.__name__}.')
    return [package.__name__, *(module.name for module in below)]


def loaded_by(modules: list[str]) -> set[str]:
    """Import modules in a fresh interpreter; return the names of all that is loaded then."""
    program = LOADED + 'print(*sys.modules)'
    command = [sys.executable, '-c', program, *modules]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return set(done.stdout.split())


def forbidden_among(loaded: set[str], forbidden: tuple[str, ...]) -> list[str]:
    return sorted(
        name for name in loaded if any(name == f or name.startswith(f'{f}.') for f in forbidden)
    )


@pytest.mark.parametrize('room', ['engine', 'reconstruction'])
def test_engine_and_reconstruction_load_neither_builder_nor_ros(room: str) -> None:
    modules = modules_of(room)
    assert len(modules) > 1, f'qvggt_ros.{room} is empty'
    assert forbidden_among(loaded_by(modules), NEVER_ONLINE + NEVER_WITHOUT_ROS) == []


def test_node_loads_no_builder() -> None:
    modules = modules_of('node')
    assert 'qvggt_ros.node.reconstruct_node' in modules
    assert forbidden_among(loaded_by(modules), NEVER_ONLINE) == []


def test_the_command_loads_only_what_it_is_asked_for() -> None:
    every_room = tuple(f'qvggt_ros.{room}' for room in (*OFFLINE_ROOMS, 'engine', 'node'))
    loaded = loaded_by(['qvggt_ros.cli'])
    assert forbidden_among(loaded, (*NEVER_ONLINE, *every_room, 'numpy', 'rclpy')) == []


def test_engines_are_built_and_run_without_pytorch() -> None:
    """A robot builds its own engines, and loads what builds them only then."""
    modules = ['qvggt_ros.export.engine_command', 'qvggt_ros.engine.tensorrt_engine']
    without = ('torch', 'onnxscript', 'safetensors', 'qvggt_ros.vggt', 'qvggt_ros.quantization')
    assert forbidden_among(loaded_by(modules), (*without, 'onnxruntime')) == []


def test_the_demo_and_its_recording_do_without_the_builder() -> None:
    modules = [
        'qvggt_ros.evaluation.demo_command',
        'qvggt_ros.evaluation.eval_command',
        'qvggt_ros.evaluation.drive_command',
        'qvggt_ros.evaluation.convert_command',
        'qvggt_ros.synthetic.synth_command',
    ]
    assert forbidden_among(loaded_by(modules), OFFLINE_PACKAGES) == []


def test_the_rule_notices_an_offline_module() -> None:
    # json stands for torch: a rule that cannot see it would see nothing at all.
    assert 'json.decoder' in forbidden_among(loaded_by(['json']), ('json',))
