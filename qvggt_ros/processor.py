# Copyright 2026 qvggt_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""What the system says of its processor."""

from __future__ import annotations

import platform
from pathlib import Path

CPU_INFO = Path('/proc/cpuinfo')


def processor_name(cpu_info: Path = CPU_INFO) -> str:
    """Return the processor's name as the system gives it, or its architecture."""
    return _entry('model name', cpu_info) or platform.processor() or platform.machine()


def processor_flags(cpu_info: Path = CPU_INFO) -> frozenset[str]:
    """Return the instruction sets of an x86 processor; empty where the system does not say."""
    return frozenset(_entry('flags', cpu_info).split())


def _entry(name: str, cpu_info: Path) -> str:
    """Return what is said of the first core under a name, empty if nothing is."""
    try:
        lines = cpu_info.read_text(encoding='utf-8', errors='replace').splitlines()
    except OSError:  # not Linux
        return ''
    entries = (line.partition(':') for line in lines)
    return next((value.strip() for key, _, value in entries if key.strip() == name), '')
