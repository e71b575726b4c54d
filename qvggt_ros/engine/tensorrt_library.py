# Copyright 2026 qvggt_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""TensorRT and TensorRT-RTX: two libraries with one interface, imported by name where needed."""

from __future__ import annotations

import importlib
from types import ModuleType
from typing import Any

from qvggt_ros.errors import EngineError, UsageError, first_line

# Module and what to install where it is missing.
LIBRARIES = {
    'tensorrt': 'it comes with JetPack, or from NVIDIA: https://developer.nvidia.com/tensorrt',
    'tensorrt_rtx': 'pip install tensorrt-rtx-cu13',
}


def load_library(engine: str) -> ModuleType:
    """Import TensorRT or TensorRT-RTX by name; EngineError says how to get it."""
    if engine not in LIBRARIES:
        raise UsageError(f'engine {engine!r}: must be one of {", ".join(LIBRARIES)}')
    try:
        return importlib.import_module(engine)
    except (ImportError, OSError) as error:
        raise EngineError(
            f'engine {engine!r} is not installed here ({error}); {LIBRARIES[engine]}'
        ) from error


def make_logger(library: Any) -> Any:
    """Return a logger that keeps the library's last complaint, `last`, instead of printing it."""

    class Logger(library.ILogger):
        def __init__(self) -> None:
            library.ILogger.__init__(self)
            self.last = 'no reason was given'

        def log(self, severity: Any, message: str) -> None:
            if severity in (library.ILogger.ERROR, library.ILogger.INTERNAL_ERROR):
                self.last = message

    return Logger()


def one_line(text: object) -> str:
    """Return a library's message as a line that fits into one of ours."""
    return first_line(str(text).strip() or 'no reason was given')
