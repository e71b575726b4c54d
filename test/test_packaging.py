# Copyright 2026 qvggt_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""The package says what it needs, and colcon installs what ROS 2 looks for."""

from __future__ import annotations

import ast
import importlib.metadata
import os
import re
import shutil
import subprocess
import sys
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import pytest

import qvggt_ros

ONLINE_ROOMS = ('engine', 'reconstruction', 'node')
ROS_PACKAGES = {'rclpy', 'launch', 'launch_ros'}
ROS_ENDINGS = ('_msgs', '_srvs', '_interfaces')
# Online packages from elsewhere than ROS -> rosdep key; None where rosdep knows none.
OTHER_PACKAGES = {
    'PIL': 'python3-pil',
    'cv2': 'python3-opencv',
    'numpy': 'python3-numpy',
    'yaml': 'python3-yaml',
    'onnxruntime': None,
    'rich': None,
    'rosbags': None,
    'tensorrt': None,
    'tensorrt_rtx': None,
}
EXECUTABLES = {'qvggt', 'reconstruct_node', 'bag_player'}
NOT_COPIED = shutil.ignore_patterns('.*', '__pycache__', 'build', 'install', 'log', 'demo_output')


@pytest.fixture(scope='module')
def manifest(project_dir: Path) -> ElementTree.Element:
    return ElementTree.parse(project_dir / 'package.xml').getroot()


def text_of(manifest: ElementTree.Element, tag: str) -> list[str]:
    return [str(element.text) for element in manifest.iter(tag)]


def imported_by(file: Path) -> set[str]:
    """Return the top-level names of everything a file imports, wherever in it."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name.split('.')[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            names.add(str(node.module).split('.')[0])
    return names


def online_imports(project_dir: Path) -> set[str]:
    files = [
        project_dir / 'launch' / 'reconstruct.launch.py',
        project_dir / 'qvggt_ros' / 'cli.py',
    ]
    for room in ONLINE_ROOMS:
        files += (project_dir / 'qvggt_ros' / room).rglob('*.py')
    return set().union(*(imported_by(file) for file in files))


def test_one_name_version_and_licence(manifest: ElementTree.Element, project_dir: Path) -> None:
    assert text_of(manifest, 'name') == ['qvggt_ros']
    assert text_of(manifest, 'version') == [qvggt_ros.__version__]
    assert text_of(manifest, 'license') == ['Apache-2.0']
    assert f"version='{qvggt_ros.__version__}'" in (project_dir / 'setup.py').read_text()
    assert importlib.metadata.version('qvggt_ros') == qvggt_ros.__version__


def test_every_ros_package_used_online_is_a_dependency(
    manifest: ElementTree.Element, project_dir: Path
) -> None:
    used = online_imports(project_dir)
    from_ros = {name for name in used if name in ROS_PACKAGES or name.endswith(ROS_ENDINGS)}
    assert {'rclpy', 'sensor_msgs', 'launch_ros'} <= from_ros
    assert from_ros - set(text_of(manifest, 'exec_depend')) == set()


def test_every_other_package_used_online_is_a_dependency_or_known_to_have_no_key(
    manifest: ElementTree.Element, project_dir: Path
) -> None:
    used = (
        online_imports(project_dir) - set(sys.stdlib_module_names) - ROS_PACKAGES - {'qvggt_ros'}
    )
    others = {name for name in used if not name.endswith(ROS_ENDINGS)}
    assert others - set(OTHER_PACKAGES) == set(), 'add it to package.xml and requirements/'
    keys = {OTHER_PACKAGES[name] for name in others} - {None}
    assert keys - set(text_of(manifest, 'exec_depend')) == set()


def test_every_command_can_be_called() -> None:
    installed = importlib.metadata.distribution('qvggt_ros').entry_points
    commands = {e.name: e.load() for e in installed if e.group == 'console_scripts'}
    assert set(commands) == EXECUTABLES
    assert all(callable(command) for command in commands.values())


def test_every_file_begins_with_the_licence(project_dir: Path) -> None:
    found = [*project_dir.glob('*.py'), *project_dir.glob('Makefile')]
    for folder in ('qvggt_ros', 'test', 'tools', 'launch', '.ci'):
        found += (file for file in (project_dir / folder).rglob('*') if is_source(file))
    assert len(found) > 50
    # A program may begin with the line that names its interpreter.
    holders = {file: file.read_text().removeprefix('#!/usr/bin/env bash\n') for file in found}
    begin = '# Copyright 2026 qvggt_ros contributors\n# SPDX-License-Identifier: Apache-2.0\n'
    assert [file for file, text in holders.items() if not text.startswith(begin)] == []


def is_source(file: Path) -> bool:
    return file.suffix == '.py' or file.parent.name == '.ci'


def test_layers_are_locked(project_dir: Path) -> None:
    folder = project_dir / 'requirements'
    locked = {line.split('==')[0] for line in (folder / 'lock.txt').read_text().splitlines()}
    for layer in ('runtime', 'interfaces', 'report', 'build', 'test'):
        lines = (folder / f'{layer}.txt').read_text().lower().splitlines()
        wanted = {re.split('[ <>=]', line)[0] for line in lines if line and line[0] != '#'}
        assert wanted, layer
        assert wanted - locked == set(), layer


@pytest.fixture(scope='module')
def installed(project_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return where colcon installs a copy of the checkout, as on a robot."""
    workspace = tmp_path_factory.mktemp('workspace')
    shutil.copytree(project_dir, workspace / 'src' / 'qvggt_ros', ignore=NOT_COPIED)
    path = f'{Path(sys.executable).parent}{os.pathsep}{os.environ["PATH"]}'
    done = subprocess.run(
        ['colcon', 'build', '--event-handlers', 'console_direct+'],
        cwd=workspace,
        env={**os.environ, 'PATH': path},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return workspace / 'install' / 'qvggt_ros'


@pytest.mark.slow
def test_colcon_installs_what_ros_looks_for(installed: Path, project_dir: Path) -> None:
    share = installed / 'share' / 'qvggt_ros'
    for file in (
        'package.xml',
        'launch/reconstruct.launch.py',
        'config/reconstruct.yaml',
        'rviz/reconstruct.rviz',
    ):
        assert (share / file).read_bytes() == (project_dir / file).read_bytes()
    marker = installed / 'share' / 'ament_index' / 'resource_index' / 'packages' / 'qvggt_ros'
    assert marker.is_file()
    executables = installed / 'lib' / 'qvggt_ros'
    assert {file.name for file in executables.iterdir()} == EXECUTABLES


@pytest.mark.slow
def test_colcon_installs_every_bundle_whole(installed: Path, project_dir: Path) -> None:
    for manifest in (project_dir / 'engines').glob('*/manifest.json'):
        bundle = installed / 'share' / 'qvggt_ros' / 'engines' / manifest.parent.name
        named = set(re.findall(r'"file": "([^"]+)"', manifest.read_text()))
        assert named
        for name in {'manifest.json', *named}:
            assert (bundle / name).read_bytes() == (manifest.parent / name).read_bytes()


@pytest.mark.slow
def test_installed_commands_run_without_the_checkout(installed: Path, tmp_path: Path) -> None:
    (site_packages,) = installed.glob('lib/python3.*/site-packages')
    environment = {**os.environ, 'PYTHONPATH': str(site_packages)}
    for command, arguments, wanted in (
        ('qvggt', ['--version'], f'qvggt {qvggt_ros.__version__}'),
        ('bag_player', [], 'parameter bag is empty'),
    ):
        done = subprocess.run(
            [str(installed / 'lib' / 'qvggt_ros' / command), *arguments],
            cwd=tmp_path,
            env=environment,
            capture_output=True,
            text=True,
            check=False,
        )
        assert wanted in done.stdout + done.stderr


@pytest.mark.slow
def test_every_module_is_installed(installed: Path, project_dir: Path) -> None:
    (site_packages,) = installed.glob('lib/python3.*/site-packages')
    wanted = {file.relative_to(project_dir) for file in (project_dir / 'qvggt_ros').rglob('*.py')}
    there = {file.relative_to(site_packages) for file in site_packages.rglob('*.py')}
    assert wanted == there
