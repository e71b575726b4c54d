# Copyright 2026 qvggt_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""The launch file and the parameter file fit the node; they are run where ROS 2's launch is."""

from __future__ import annotations

import ast
import importlib.util
import os
import signal
import subprocess
import sys
import threading
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
import rclpy
import yaml
from rclpy.context import Context
from small_networks import small_bundle

from qvggt_ros.node.parameters import NodeSettings, read_settings
from qvggt_ros.node.reconstruct_node import ReconstructNode

ARGUMENTS = {
    'autostart',
    'bag',
    'bundle',
    'camera_info_topic',
    'image_topic',
    'namespace',
    'params_file',
    'rviz',
    'use_sim_time',
}
RUN = (
    'import sys, launch\n'
    'from launch.launch_description_sources import PythonLaunchDescriptionSource as Source\n'
    'service = launch.LaunchService(argv=sys.argv[2:])\n'
    'arguments = [tuple(word.split(":=", 1)) for word in sys.argv[2:]]\n'
    'include = launch.actions.IncludeLaunchDescription\n'
    'description = include(Source(sys.argv[1]), launch_arguments=arguments)\n'
    'service.include_launch_description(launch.LaunchDescription([description]))\n'
    'sys.exit(service.run())\n'
)
needs_launch = pytest.mark.skipif(
    importlib.util.find_spec('launch_ros') is None,
    reason='launch_ros is not installed: it comes with a ROS 2 distribution, not from PyPI',
)


@pytest.fixture
def launch_file(project_dir: Path) -> Path:
    return project_dir / 'launch' / 'reconstruct.launch.py'


@pytest.fixture
def parameter_file(project_dir: Path) -> Path:
    return project_dir / 'config' / 'reconstruct.yaml'


def calls_of(launch_file: Path, *names: str) -> list[ast.Call]:
    """Return the calls of the named functions in the launch file."""
    tree = ast.parse(launch_file.read_text())
    calls = [node for node in ast.walk(tree) if isinstance(node, ast.Call)]
    return [c for c in calls if isinstance(c.func, ast.Name) and c.func.id in names]


def keyword_of(call: ast.Call, name: str) -> Any:
    (value,) = (keyword.value for keyword in call.keywords if keyword.arg == name)
    return ast.literal_eval(value)


def test_every_argument_is_declared_and_described(launch_file: Path) -> None:
    declared = calls_of(launch_file, 'DeclareLaunchArgument')
    assert {ast.literal_eval(call.args[0]) for call in declared} == ARGUMENTS
    assert all(keyword_of(call, 'description') for call in declared)


def test_every_started_program_is_installed(launch_file: Path, project_dir: Path) -> None:
    nodes = calls_of(launch_file, 'Node')
    own = [node for node in nodes if keyword_of(node, 'package') == 'qvggt_ros']
    entry_points = (project_dir / 'setup.py').read_text()
    assert {keyword_of(node, 'executable') for node in own} == {'reconstruct_node', 'bag_player'}
    for node in own:
        assert f"'{keyword_of(node, 'executable')} = qvggt_ros.node." in entry_points


def test_parameter_file_lists_every_parameter_with_its_default(parameter_file: Path) -> None:
    (parameters,) = yaml.safe_load(parameter_file.read_text())['/**'].values()
    defaults = asdict(NodeSettings())
    assert parameters == defaults
    for name, value in parameters.items():  # rclpy takes 5 for no double
        assert type(value) is type(defaults[name]), name


def test_node_takes_the_parameter_file_under_any_name(parameter_file: Path) -> None:
    context = Context()
    rclpy.init(context=context)
    arguments = ['--ros-args', '-r', '__node:=reconstruct', '-r', '__ns:=/robot1']
    arguments += ['--params-file', str(parameter_file)]
    node = ReconstructNode(context=context, cli_args=arguments)
    try:
        assert node.get_fully_qualified_name() == '/robot1/reconstruct'
        assert read_settings(node) == NodeSettings()
    finally:
        node.destroy_node()
        rclpy.shutdown(context=context)


def start_launch(launch_file: Path, *arguments: str) -> subprocess.Popen[str]:
    prefix = os.environ.get('AMENT_PREFIX_PATH') or sys.prefix
    environment = {**os.environ, 'AMENT_PREFIX_PATH': prefix, 'PYTHONUNBUFFERED': '1'}
    return subprocess.Popen(
        [sys.executable, '-c', RUN, str(launch_file), *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env=environment,
    )


def output_of(process: subprocess.Popen[str], stop_at: str = '', timeout_s: float = 60.0) -> str:
    """Return what launch prints until it ends; stop it as Ctrl-C does when it prints a text."""
    assert process.stdout is not None
    watchdog = threading.Timer(timeout_s, process.kill)
    watchdog.start()
    printed = ''
    for line in process.stdout:
        printed += line
        if stop_at and stop_at in line:
            process.send_signal(signal.SIGINT)
    process.wait()
    watchdog.cancel()
    return printed


@needs_launch
@pytest.mark.slow
def test_launch_brings_the_node_to_where_it_listens(launch_file: Path) -> None:
    arguments = [f'bundle:={small_bundle()}', 'namespace:=robot1', 'image_topic:=/cam/image']
    process = start_launch(launch_file, *arguments)
    printed = output_of(process, stop_at='ready: ')
    assert '[robot1.reconstruct]: ready: ' in printed
    assert 'in: /cam/image, /robot1/camera_info; out: /robot1/reconstruct/points' in printed
    assert 'process has finished cleanly' in printed
    assert 'Traceback' not in printed


@needs_launch
@pytest.mark.slow
def test_launch_tells_why_the_node_could_not_start(launch_file: Path, tmp_path: Path) -> None:
    process = start_launch(launch_file, f'bundle:={tmp_path}/none')
    printed = output_of(process)
    assert f'[reconstruct]: cannot configure: {tmp_path}/none' in printed
    assert 'exit code 2' in printed
    assert 'Traceback' not in printed


@needs_launch
@pytest.mark.slow
def test_launch_without_its_parameter_file_starts_nothing(
    launch_file: Path, tmp_path: Path
) -> None:
    process = start_launch(launch_file, f'params_file:={tmp_path}/none.yaml')
    printed = output_of(process)
    assert f'params_file: {tmp_path}/none.yaml: no such file' in printed
    assert 'process started' not in printed
    assert process.returncode == 1
