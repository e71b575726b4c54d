# Copyright 2026 qvggt_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Virtual environments and pip in them, with a line of progress every few seconds."""

from __future__ import annotations

import hashlib
import os
import queue
import re
import shutil
import subprocess
import tempfile
import threading
import time
import urllib.error
import urllib.parse
import urllib.request
from pathlib import Path

from env_machine import SetupError

# Only for machines whose Python comes without ensurepip, as Debian's does without python3-venv.
PIP_WHEEL = 'pip-26.3-py3-none-any.whl'
PIP_WHEEL_SHA256 = 'f3b60b20ffaadd4415ed7957212a38ac63fa4c5fa375bd0f4a797777940fad13'
PROGRESS_EVERY_S = 5.0


def create_environment(python: str, venv: Path) -> None:
    """Make an empty virtual environment with pip in `venv`, replacing what is there."""
    can_bring_pip = (
        subprocess.run([python, '-c', 'import ensurepip'], capture_output=True).returncode == 0
    )
    options = ['--clear'] if can_bring_pip else ['--clear', '--without-pip']
    done = subprocess.run(
        [python, '-m', 'venv', *options, str(venv)], capture_output=True, text=True, check=False
    )
    if done.returncode != 0:
        reason = (done.stderr or done.stdout).strip().splitlines()
        raise SetupError(
            f'{python} cannot make a virtual environment in {venv} '
            f'({reason[-1] if reason else "no reason given"}): `sudo apt install python3-venv`'
        )
    if not can_bring_pip:
        try:
            _bring_pip(venv)
        except BaseException:
            shutil.rmtree(venv)
            raise


def _bring_pip(venv: Path) -> None:
    """Fetch one pinned pip wheel and let it install itself."""
    with tempfile.TemporaryDirectory() as folder:
        wheel = Path(folder) / PIP_WHEEL
        try:
            wheel.write_bytes(_fetch_pip_wheel())
        except (OSError, ValueError, urllib.error.URLError) as error:
            raise SetupError(
                f'this Python has no ensurepip and pip could not be fetched ({error}): '
                '`sudo apt install python3-venv`'
            ) from error
        command = [str(venv / 'bin' / 'python'), str(wheel / 'pip'), 'install', '-q']
        subprocess.run([*command, '--no-index', str(wheel)], check=True, env=_pip_environment())


def _fetch_pip_wheel() -> bytes:
    index = os.environ.get('PIP_INDEX_URL', 'https://pypi.org/simple').rstrip('/')
    page_url = f'{index}/pip/'
    with urllib.request.urlopen(page_url, timeout=30) as answer:
        page = answer.read().decode()
    link = re.search(rf'href="([^"#]*{re.escape(PIP_WHEEL)})', page)
    if link is None:
        raise ValueError(f'{page_url} does not list {PIP_WHEEL}')
    with urllib.request.urlopen(urllib.parse.urljoin(page_url, link.group(1))) as answer:
        content: bytes = answer.read()
    if hashlib.sha256(content).hexdigest() != PIP_WHEEL_SHA256:
        raise ValueError(f'{PIP_WHEEL} from {index} has another SHA-256 than the one pinned here')
    return content


def pip_install(venv: Path, arguments: list[str], log_file: Path) -> bool:
    """Run `pip install` with these arguments, showing progress; say whether it went well.

    Everything that pip prints is appended to `log_file`.
    """
    python = str(venv / 'bin' / 'python')
    command = [python, '-m', 'pip', 'install', '--disable-pip-version-check', '--no-input']
    # Most of what is installed is never imported: let the first import compile it.
    command.append('--no-compile')
    return run_with_progress([*command, *arguments], log_file, _pip_environment())


def run_with_progress(
    command: list[str], log_file: Path, environment: dict[str, str] | None = None
) -> bool:
    """Run a command, its output into the log and a line about it on the screen now and then."""
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=environment
    )
    lines: queue.Queue[str | None] = queue.Queue()
    threading.Thread(target=_read_lines, args=(process, lines), daemon=True).start()
    started = shown = time.monotonic()
    doing = 'starting'
    with log_file.open('a') as log:
        log.write(f'\n$ {" ".join(command)}\n')
        while True:
            try:
                line = lines.get(timeout=1.0)
            except queue.Empty:
                line = ''
            if line is None:
                break
            log.write(line)
            doing = _told(line) or doing
            if time.monotonic() - shown > PROGRESS_EVERY_S:
                shown = time.monotonic()
                print(f'      {shown - started:4.0f} s  {doing}', flush=True)
    return process.wait() == 0


def _read_lines(process: subprocess.Popen[str], lines: queue.Queue[str | None]) -> None:
    assert process.stdout is not None
    for line in process.stdout:
        lines.put(line)
    lines.put(None)


def _told(line: str) -> str:
    """Return in a few words what a line of pip's or ninja's output says is being done."""
    installing = re.match(r'Installing collected packages: (.*)', line)
    if installing:
        return f'installing {installing.group(1).count(",") + 1} packages'
    downloading = re.match(r'\s*Downloading ([^-\s]+)\S* (\(.*\))', line)
    if downloading:
        return f'downloading {downloading.group(1)} {downloading.group(2)}'
    other = re.match(r'(Collecting [^ (]+|-- Found \S+|\[\d+/\d+\] \w+ \w+)', line)
    return other.group(1).lstrip('- ').lower() if other else ''


def _pip_environment() -> dict[str, str]:
    """Return the environment without settings that would send packages elsewhere."""
    kept = {name: value for name, value in os.environ.items() if name != 'PIP_TARGET'}
    return {**kept, 'PIP_USER': '0', 'PYTHONNOUSERSITE': '1'}
