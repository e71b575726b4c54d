# Copyright 2026 qvggt_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Files appear whole or not at all."""

from __future__ import annotations

from pathlib import Path

import pytest

from qvggt_ros.files import whole_file


def test_a_file_appears_when_all_went_well(tmp_path: Path) -> None:
    path = tmp_path / 'file.txt'
    with whole_file(path) as partial:
        partial.write_text('text')
        assert not path.exists()
    assert path.read_text() == 'text' and list(path.parent.iterdir()) == [path]


def test_a_failure_leaves_the_older_file_and_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / 'file.txt'
    path.write_text('old')

    def interrupted() -> None:
        with whole_file(path) as partial:
            partial.write_text('half')
            raise RuntimeError('interrupted')

    with pytest.raises(RuntimeError, match='interrupted'):
        interrupted()
    assert path.read_text() == 'old' and list(tmp_path.iterdir()) == [path]
