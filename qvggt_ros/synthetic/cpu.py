# Copyright 2026 qvggt_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""What makes training on a CPU fast."""

from __future__ import annotations

import ctypes
import sys

import torch

# glibc's malloc.h
_M_TRIM_THRESHOLD = -1
_M_TOP_PAD = -2
_M_MMAP_MAX = -4


def keep_freed_memory() -> bool:
    """Let the process reuse the memory it frees instead of giving it back to the system.

    Every training step allocates the same few hundred large tensors; by default glibc maps and
    unmaps each, and the page faults cost a quarter of the step. Returns whether it took effect.
    """
    if not sys.platform.startswith('linux'):
        return False
    try:
        libc = ctypes.CDLL('libc.so.6')
        settings = {_M_MMAP_MAX: 0, _M_TRIM_THRESHOLD: 2**31 - 1, _M_TOP_PAD: 2**28}
        return all(libc.mallopt(name, value) == 1 for name, value in settings.items())
    except OSError:  # another libc
        return False


def has_bfloat16() -> bool:
    """Whether this processor multiplies bfloat16 matrices by itself; emulated, they are slow."""
    capabilities = torch.cpu.get_capabilities()
    return any(capabilities.get(name, False) for name in ('amx_bf16', 'avx512_bf16', 'bf16'))
