# Copyright 2026 qvggt_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Making the environment: what is refused in one line, what is not done twice, what is mended."""

from __future__ import annotations

import platform
import subprocess
import sys
import time
from pathlib import Path

import env_machine
import env_pip
import env_tf2_msgs
import make_env
import pytest
from env_machine import SetupError

PYTHON = f'{sys.version_info.major}.{sys.version_info.minor}'


@pytest.fixture(scope='module')
def bare_venv(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp('bare') / '.venv'
    env_pip.create_environment(sys.executable, folder)
    return folder


def run_make_env(project_dir: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(project_dir / 'tools' / 'make_env.py'), *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_another_processor_is_told_where_its_ros_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(platform, 'machine', lambda: 'aarch64')
    with pytest.raises(SetupError, match='Linux on aarch64: use the ROS 2 of this machine'):
        env_machine.check_platform()


def test_an_old_python_is_told_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, 'version_info', (3, 8, 10))
    monkeypatch.setenv('PATH', '/nowhere')
    with pytest.raises(SetupError, match=r'Python 3\.10 to 3\.13 is needed .*sudo apt install'):
        env_machine.choose_python()


def test_an_old_python_hands_over_to_a_newer_one(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    newer = tmp_path / 'python3.12'
    newer.symlink_to(sys.executable)
    monkeypatch.setattr(sys, 'version_info', (3, 8, 10))
    monkeypatch.setenv('PATH', str(tmp_path))
    assert env_machine.choose_python() == str(newer)


def test_a_missing_compiler_is_named_by_its_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv('PATH', '/nowhere')
    monkeypatch.delenv('CC', raising=False)
    monkeypatch.delenv('CXX', raising=False)
    assert 'g++' in env_machine.missing_for_compiling(sys.executable).split()


def test_an_interpreter_that_is_not_there_has_no_version() -> None:
    assert env_machine.python_version('/nowhere/python3') == (0, 0)


@pytest.mark.parametrize(
    ('line', 'told'),
    [
        ('Collecting ros-rmw~=7.8.2 (from ros-rclpy)\n', 'collecting ros-rmw~=7.8.2'),
        (
            '  Downloading torch-2.13.0-cp311-cp311-linux_x86_64.whl (191.8 MB)\n',
            'downloading torch (191.8 MB)',
        ),
        ('Installing collected packages: a, b, c\n', 'installing 3 packages'),
        ('[3/36] Building C object x.c.o\n', '[3/36] building c'),
        ('WARNING: something\n', ''),
    ],
)
def test_progress_is_told_in_few_words(line: str, told: str) -> None:
    assert env_pip._told(line) == told


def test_a_commands_failure_and_output_are_kept(tmp_path: Path) -> None:
    log = tmp_path / 'log'
    program = 'print("what went wrong"); raise SystemExit(3)'
    assert not env_pip.run_with_progress([sys.executable, '-c', program], log)
    assert env_pip.run_with_progress([sys.executable, '-c', 'print("fine")'], log)
    assert 'what went wrong' in log.read_text() and 'fine' in log.read_text()


def test_an_unknown_package_fails_with_the_log_named(bare_venv: Path, tmp_path: Path) -> None:
    arguments = ['--no-index', 'no-such-package-qvggt']
    assert not env_pip.pip_install(bare_venv, arguments, tmp_path / 'log')
    assert 'no-such-package-qvggt' in (tmp_path / 'log').read_text()


def test_a_python_without_pip_and_network_is_told_what_to_install(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv('PIP_INDEX_URL', 'http://127.0.0.1:9/simple')
    (tmp_path / '.venv').mkdir()
    with pytest.raises(SetupError, match='sudo apt install python3-venv'):
        env_pip._bring_pip(tmp_path / '.venv')


def test_foreign_paths_in_exported_targets_are_corrected_once(bare_venv: Path) -> None:
    exported = bare_venv / 'share' / 'some_msgs' / 'cmake' / 'export_some_msgsExport.cmake'
    exported.parent.mkdir(parents=True)
    foreign = f'/opt/python/cp{PYTHON.replace(".", "")}-cp{PYTHON.replace(".", "")}'
    exported.write_text(
        f'INTERFACE_INCLUDE_DIRECTORIES "{foreign}/include/python{PYTHON};'
        f'{foreign}/lib/python{PYTHON}/site-packages/numpy/_core/include"\n'
    )
    assert env_tf2_msgs.correct_exported_paths(bare_venv) == 1
    corrected = exported.read_text()
    assert '/opt/python' not in corrected
    assert f'{bare_venv}/lib/python{PYTHON}/site-packages/numpy/_core/include"' in corrected
    assert env_tf2_msgs.correct_exported_paths(bare_venv) == 0


def test_the_stamp_remembers_steps_place_and_python(bare_venv: Path, tmp_path: Path) -> None:
    environment = make_env.Environment(bare_venv, sys.executable)
    step = make_env.Step('runtime', 'says', 'digest 1', lambda: '')
    assert environment.is_usable() and not environment.has(step)
    environment.record(step)
    assert environment.has(step)
    assert not environment.has(make_env.Step('runtime', 'says', 'digest 2', lambda: ''))
    moved = tmp_path / 'moved'
    bare_venv.rename(moved)
    assert not make_env.Environment(moved, sys.executable).is_usable()
    moved.rename(bare_venv)
    assert environment.is_usable()


def test_a_damaged_stamp_means_that_nothing_is_known(bare_venv: Path) -> None:
    (bare_venv / make_env.STAMP_NAME).write_text('{"runtime": "dig')
    environment = make_env.Environment(bare_venv, sys.executable)
    assert not environment.has(make_env.Step('runtime', 'says', 'digest 1', lambda: ''))
    (bare_venv / make_env.STAMP_NAME).unlink()


def test_the_package_is_linked_where_ros_tools_look(tmp_path: Path, project_dir: Path) -> None:
    make_env.link_package_files(tmp_path)
    make_env.link_package_files(tmp_path)  # again and again
    share = tmp_path / 'share' / 'qvggt_ros'
    assert (share / 'launch').resolve() == project_dir / 'launch'
    assert (tmp_path / 'share/ament_index/resource_index/packages/qvggt_ros').is_file()
    names = {link.name for link in (tmp_path / 'lib' / 'qvggt_ros').iterdir()}
    assert names == {'qvggt', 'reconstruct_node', 'bag_player'}


def test_a_finished_environment_is_left_alone_at_once(project_dir: Path, tmp_path: Path) -> None:
    venv = tmp_path / '.venv'
    subprocess.run([sys.executable, '-m', 'venv', '--without-pip', str(venv)], check=True)
    environment = make_env.Environment(venv, sys.executable)
    for step in make_env.steps_of(environment, ['runtime']):
        environment.record(step)
    started = time.monotonic()
    done = run_make_env(project_dir, '--venv', str(venv), 'runtime')
    assert (done.returncode, done.stdout, done.stderr) == (0, '', '')
    assert time.monotonic() - started < 5.0  # half a second on an idle machine


def test_an_unknown_layer_is_refused(project_dir: Path) -> None:
    done = run_make_env(project_dir, 'everything')
    assert done.returncode == 2 and "invalid choice: 'everything'" in done.stderr
