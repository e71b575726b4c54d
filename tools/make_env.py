# Copyright 2026 qvggt_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Makes `.venv`, layer by layer; a layer whose pins have not changed is left as it is.

    python3 tools/make_env.py [--venv .venv] LAYER...

Layers: `runtime` (the node, its engine and rclpy), `report`, `build` (torch), `test`; whichever
are asked for, tf2_msgs and the package itself are put in too. Needs nothing but Python.
"""

from __future__ import annotations

import argparse
import contextlib
import fcntl
import hashlib
import json
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from env_machine import (
    SetupError,
    check_platform,
    choose_python,
    missing_for_compiling,
    python_version,
)
from env_pip import create_environment, pip_install
from env_tf2_msgs import build_tf2_msgs

PROJECT = Path(__file__).resolve().parent.parent
PINS = PROJECT / 'requirements'
LOCK = PINS / 'lock.txt'
TF2_MSGS = PROJECT / 'tf2_msgs_local'
LAYERS = ('runtime', 'report', 'build', 'test')
STAMP_NAME = 'qvggt_env.json'
LOG_NAME = 'qvggt_env.log'
TORCH_CPU_INDEX = 'https://download.pytorch.org/whl/cpu'


@dataclass(frozen=True)
class Step:
    """One thing to put into the environment.

    Attributes:
        name: what the stamp file calls it.
        says: what the screen calls it.
        made_from: anything whose change means that the step must be done again.
        do: does it; returns what remains undone, '' if nothing.
    """

    name: str
    says: str
    made_from: str
    do: Callable[[], str]


class Environment:
    """The virtual environment, the stamp that says what is in it, and the log of how it got in."""

    def __init__(self, venv: Path, python: str) -> None:
        self.venv = venv
        self.python = python
        self.log = venv / LOG_NAME
        self._stamp_file = venv / STAMP_NAME
        # A virtual environment can be neither moved nor given another Python.
        self._identity = f'{venv} {python_version(python)}'

    def is_usable(self) -> bool:
        """Say whether the environment is where and what it was made to be."""
        if python_version(str(self.venv / 'bin' / 'python')) != python_version(self.python):
            return False
        if self._stamp():
            return self._stamp().get('identity') == self._identity
        return any(self.venv.glob('lib/python3.*/site-packages/pip'))

    def has(self, step: Step) -> bool:
        """Say whether a step was done, from the same inputs."""
        return self._stamp().get(step.name) == step.made_from

    def record(self, step: Step) -> None:
        """Note in the stamp that a step is done."""
        stamp = {**self._stamp(), 'identity': self._identity, step.name: step.made_from}
        temporary = self._stamp_file.with_suffix('.new')
        temporary.write_text(json.dumps(stamp, indent=1) + '\n')
        temporary.replace(self._stamp_file)

    def install_layer(self, layer: str) -> str:
        """Install one file of requirements at the locked versions."""
        wanted = ['-r', str(PINS / f'{layer}.txt'), '-c', str(LOCK)]
        if not pip_install(self.venv, wanted, self.log):
            raise SetupError(
                f'pip could not install {PINS / layer}.txt (is the package index reachable?): '
                f'see the end of {self.log}'
            )
        return ''

    def install_torch(self) -> str:
        """Install torch without CUDA where that build can be had, any other build elsewhere."""
        (pinned,) = (line for line in (PINS / 'torch.txt').read_text().split('\n') if '==' in line)
        once = ['--timeout', '10', '--retries', '1', '--no-deps']
        cpu_build = [*once, '--extra-index-url', TORCH_CPU_INDEX, f'{pinned}+cpu']
        if self._has_torch(pinned) or pip_install(self.venv, cpu_build, self.log):
            return ''
        print(
            f'      no CPU build of {pinned} within reach: taking the one with CUDA (several GB)'
        )
        if not pip_install(self.venv, [pinned, '-c', str(LOCK)], self.log):
            raise SetupError(f'pip could not install {pinned}: see the end of {self.log}')
        return ''

    def install_tf2_msgs(self) -> str:
        """Build tf2_msgs, or say what the machine lacks for that."""
        lacking = missing_for_compiling(str(self.venv / 'bin' / 'python'))
        if lacking:
            return (
                'WARNING: no /tf in this environment, tf2_msgs cannot be built without a C++ '
                f'compiler and Python headers: `sudo apt install {lacking}`, then again'
            )
        self.install_layer('interfaces')
        try:
            build_tf2_msgs(self.venv, TF2_MSGS, self.log)
        except SetupError as problem:
            return f'WARNING: no /tf in this environment: {problem}'
        return ''

    def install_package(self) -> str:
        """Put the checkout itself in: modules, commands, and what ROS tools look for."""
        wanted = ['--no-build-isolation', '--no-deps', '--editable', str(PROJECT)]
        if not pip_install(self.venv, wanted, self.log):
            raise SetupError(f'the package did not install: see the end of {self.log}')
        link_package_files(self.venv)
        return ''

    def _stamp(self) -> dict[str, str]:
        try:
            stamp = json.loads(self._stamp_file.read_text())
        except (OSError, ValueError):
            return {}
        return stamp if isinstance(stamp, dict) else {}

    def _has_torch(self, pinned: str) -> bool:
        program = 'import importlib.metadata as m; print(m.version("torch").split("+")[0])'
        command = [str(self.venv / 'bin' / 'python'), '-c', program]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        return pinned == f'torch=={done.stdout.strip()}'


def link_package_files(venv: Path) -> None:
    """Lay links where colcon would install: share/, the ament index and lib/ of the package."""
    share = venv / 'share' / 'qvggt_ros'
    libraries = venv / 'lib' / 'qvggt_ros'
    index = venv / 'share' / 'ament_index' / 'resource_index' / 'packages'
    for folder in (share, libraries):
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
    index.mkdir(parents=True, exist_ok=True)
    (index / 'qvggt_ros').write_text('')
    for name in ('package.xml', 'launch', 'config', 'rviz', 'engines'):
        (share / name).symlink_to(PROJECT / name)
    for name in ('qvggt', 'reconstruct_node', 'bag_player'):
        (libraries / name).symlink_to(venv / 'bin' / name)


def steps_of(environment: Environment, layers: list[str]) -> list[Step]:
    """Return the steps that the layers need, in order."""
    lock = digest(LOCK)
    says = {
        'runtime': 'rclpy, messages, engine and bags',
        'report': 'scores and plots',
        'build': 'the offline builder',
        'test': 'linters and tests',
    }
    steps = [
        Step(
            layer,
            f'{says[layer]} (requirements/{layer}.txt)',
            digest(PINS / f'{layer}.txt') + lock,
            lambda layer=layer: environment.install_layer(layer),  # type: ignore[misc]
        )
        for layer in LAYERS
        if layer in layers
    ]
    if 'build' in layers:
        torch = Step('torch', 'torch', digest(PINS / 'torch.txt'), environment.install_torch)
        steps.append(torch)
    sources = digest(*sorted(file for file in TF2_MSGS.rglob('*') if file.is_file()))
    lacking = missing_for_compiling(environment.python)
    interfaces = digest(PINS / 'interfaces.txt') + sources + lacking
    package = digest(PROJECT / 'setup.py', PROJECT / 'setup.cfg', PROJECT / 'pyproject.toml')
    return [
        *steps,
        Step('tf2_msgs', 'tf2_msgs, from source', interfaces, environment.install_tf2_msgs),
        Step('package', 'qvggt_ros itself', package, environment.install_package),
    ]


def digest(*files: Path) -> str:
    """Return one digest of the files' names and contents."""
    whole = hashlib.sha256()
    for file in files:
        whole.update(file.name.encode() + b'\0' + file.read_bytes() + b'\0')
    return whole.hexdigest()[:16]


@contextlib.contextmanager
def only_one(venv: Path) -> Iterator[None]:
    """Keep a second `make` of the same checkout waiting until the first has finished."""
    venv.parent.mkdir(parents=True, exist_ok=True)
    with (venv.parent / f'{venv.name}.lock').open('w') as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def make_environment(venv: Path, layers: list[str]) -> None:
    """Bring the environment to where it holds the layers."""
    check_platform()
    environment = Environment(venv, choose_python())
    steps = steps_of(environment, layers)
    if not environment.is_usable():
        print(f'environment: making {venv} with {environment.python}', flush=True)
        create_environment(environment.python, venv)
    missing = [step for step in steps if not environment.has(step)]
    for number, step in enumerate(missing, start=1):
        print(f'environment: [{number}/{len(missing)}] {step.says}', flush=True)
        started = time.monotonic()
        undone = step.do()
        if undone:
            print(f'environment: {undone}', file=sys.stderr, flush=True)
            continue
        environment.record(step)
        print(f'      done in {time.monotonic() - started:.0f} s', flush=True)


def main() -> int:
    """Read the command line; exit status 1 and one line when it cannot be done."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument('--venv', type=Path, default=PROJECT / '.venv')
    parser.add_argument('layers', nargs='+', choices=LAYERS)
    args = parser.parse_args()
    venv = args.venv.absolute()
    try:
        with only_one(venv):
            make_environment(venv, args.layers)
    except SetupError as problem:
        print(f'environment: {problem}', file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print('environment: interrupted; run it again to go on', file=sys.stderr)
        return 130
    return 0


if __name__ == '__main__':
    sys.exit(main())
