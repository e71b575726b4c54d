# Copyright 2026 qvggt_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Builds tf2_msgs, which PyPI lacks, into a virtual environment that has rclpy from PyPI."""

from __future__ import annotations

import os
import re
import subprocess
import tempfile
from pathlib import Path

from env_machine import SetupError
from env_pip import run_with_progress

# The wheels' exported CMake targets name the Python of the machine that built the wheels.
FOREIGN_HEADERS = re.compile(r'/opt/python/[^/;"]+/include/python3\.\d+')
FOREIGN_PACKAGES = re.compile(r'/opt/python/[^/;"]+/lib/python3\.\d+/site-packages')
TRY_IMPORT = 'from tf2_msgs.msg import TFMessage; TFMessage.__class__.__import_type_support__()'


def build_tf2_msgs(venv: Path, source: Path, log_file: Path) -> None:
    """Build the interface package in `source` with CMake and install it into `venv`.

    The libraries go beside those of the ROS wheels, so that a program needs no search path.

    Raises:
        SetupError: a step of the build failed, or its result cannot be imported.
    """
    correct_exported_paths(venv)
    cmake = str(venv / 'bin' / 'cmake')
    with tempfile.TemporaryDirectory(prefix='tf2_msgs_build_') as folder:
        configure = [cmake, '-S', str(source), '-B', folder, '-G', 'Ninja']
        configure += [f'-DCMAKE_PREFIX_PATH={venv}', f'-DCMAKE_INSTALL_PREFIX={venv}']
        configure += [f'-DPython3_EXECUTABLE={venv / "bin" / "python"}']
        configure += ['-DCMAKE_BUILD_TYPE=Release', '-DBUILD_TESTING=OFF']
        for command in (configure, [cmake, '--build', folder], [cmake, '--install', folder]):
            if not run_with_progress(command, log_file, _build_environment(venv)):
                raise SetupError(f'tf2_msgs did not build: see {log_file}')
    _check_import(venv, log_file)


def correct_exported_paths(venv: Path) -> int:
    """Point the wheels' exported CMake targets at this environment's Python; count the files."""
    headers, packages = _python_folders(venv)
    corrected = 0
    for cmake_file in venv.glob('share/*/cmake/*Export.cmake'):
        text = cmake_file.read_text()
        right = FOREIGN_PACKAGES.sub(packages, FOREIGN_HEADERS.sub(headers, text))
        if right != text:
            temporary = cmake_file.with_suffix('.cmake.new')
            temporary.write_text(right)
            temporary.replace(cmake_file)
            corrected += 1
    return corrected


def _python_folders(venv: Path) -> tuple[str, str]:
    """Return the folders of this environment's Python headers and of its packages."""
    program = 'import sysconfig as s; print(s.get_path("include")); print(s.get_path("platlib"))'
    python = str(venv / 'bin' / 'python')
    done = subprocess.run([python, '-c', program], capture_output=True, text=True, check=True)
    headers, packages = done.stdout.splitlines()
    return headers, packages


def _build_environment(venv: Path) -> dict[str, str]:
    """Return an environment that finds this environment's tools first, and no other ROS."""
    hidden = {'PYTHONPATH', 'AMENT_PREFIX_PATH', 'CMAKE_PREFIX_PATH', 'COLCON_PREFIX_PATH'}
    kept = {name: value for name, value in os.environ.items() if name not in hidden}
    return {**kept, 'PATH': f'{venv / "bin"}{os.pathsep}{os.environ.get("PATH", "")}'}


def _check_import(venv: Path, log_file: Path) -> None:
    python = str(venv / 'bin' / 'python')
    done = subprocess.run([python, '-c', TRY_IMPORT], capture_output=True, text=True, check=False)
    if done.returncode != 0:
        with log_file.open('a') as log:
            log.write(done.stderr)
        raise SetupError(f'tf2_msgs was built but cannot be imported: see {log_file}')
