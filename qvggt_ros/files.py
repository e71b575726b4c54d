# Copyright 2026 qvggt_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Files that appear whole or not at all."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """Give a name beside `path` to write to; it takes the place of `path` if all goes well.

    The folder is made where it is missing. Whatever goes wrong, an older file stays as it was and
    nothing half-written is left.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(path.name + '.partial')
    try:
        yield partial
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)
