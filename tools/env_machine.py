# Copyright 2026 qvggt_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""What the machine must bring before an environment can be made, and how to get what it lacks."""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
import sys

OLDEST_PYTHON = (3, 10)
NEWEST_PYTHON = (3, 13)
PREFERRED_PYTHONS = ('python3.12', 'python3.11', 'python3.13', 'python3.10')


class SetupError(Exception):
    """The environment cannot be made; the message says what is wrong and what mends it."""


def check_platform() -> None:
    """Raise SetupError unless PyPI has rclpy wheels for this machine."""
    system, machine = platform.system(), platform.machine()
    if system != 'Linux' or machine not in ('x86_64', 'AMD64'):
        raise SetupError(
            f'rclpy is on PyPI for x86-64 Linux only, and this is {system} on {machine}: '
            'use the ROS 2 of this machine with `colcon build` (README, "On a robot")'
        )


def choose_python() -> str:
    """Return the path of a supported Python: the running one, or another one on PATH."""
    if _is_supported(tuple(sys.version_info[:2])):
        return sys.executable
    for name in PREFERRED_PYTHONS:
        path = shutil.which(name)
        if path and _is_supported(python_version(path)):
            return path
    raise SetupError(
        f'Python {_dotted(OLDEST_PYTHON)} to {_dotted(NEWEST_PYTHON)} is needed and '
        f'{sys.executable} is {platform.python_version()}: `sudo apt install python3.12`, '
        'or say which one to use: `make env PYTHON=/path/to/python3.12`'
    )


def python_version(python: str) -> tuple[int, ...]:
    """Return (major, minor) of an interpreter; (0, 0) when it does not run."""
    program = 'import sys; print(*sys.version_info[:2])'
    try:
        done = subprocess.run([python, '-c', program], capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return (0, 0)
    return tuple(int(part) for part in done.stdout.split())


def missing_for_compiling(python: str) -> str:
    """Return the apt packages that building a C++ extension for this Python lacks, '' if none."""
    missing = []
    if not _has_compiler('CC', ('cc', 'gcc', 'clang')) or not _has_compiler(
        'CXX', ('c++', 'g++', 'clang++')
    ):
        missing.append('g++')
    if not _has_python_headers(python):
        missing.append(f'python{_dotted(python_version(python))}-dev')
    return ' '.join(missing)


def _has_compiler(variable: str, names: tuple[str, ...]) -> bool:
    chosen = os.environ.get(variable)
    return any(shutil.which(name) for name in ((chosen,) if chosen else names))


def _has_python_headers(python: str) -> bool:
    program = (
        'import os, sysconfig; '
        'print(os.path.exists(os.path.join(sysconfig.get_path("include"), "Python.h")))'
    )
    done = subprocess.run([python, '-c', program], capture_output=True, text=True, check=False)
    return done.stdout.strip() == 'True'


def _is_supported(version: tuple[int, ...]) -> bool:
    return OLDEST_PYTHON <= version <= NEWEST_PYTHON


def _dotted(version: tuple[int, ...]) -> str:
    return '.'.join(str(part) for part in version)
