# Copyright 2026 qvggt_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""What the system says of its processor."""

from __future__ import annotations

import platform
from pathlib import Path

import pytest

from qvggt_ros.processor import processor_flags, processor_name

INFO = """processor\t: 0
model name\t: A Processor: 2 GHz
flags\t\t: fpu avx2
processor\t: 1
model name\t: Another
flags\t\t: fpu
"""


def test_the_first_core_speaks_for_all(tmp_path: Path) -> None:
    path = tmp_path / 'cpuinfo'
    path.write_text(INFO)
    assert processor_name(path) == 'A Processor: 2 GHz'
    assert processor_flags(path) == {'fpu', 'avx2'}


def test_where_the_system_says_nothing_the_architecture_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(platform, 'processor', lambda: '')
    monkeypatch.setattr(platform, 'machine', lambda: 'aarch64')
    assert processor_name(tmp_path / 'absent') == 'aarch64'
    assert processor_flags(tmp_path / 'absent') == frozenset()
