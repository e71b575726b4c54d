# Copyright 2026 qvggt_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Fixtures that several test files share."""

from __future__ import annotations

from pathlib import Path

import pytest

PROJECT_DIR = Path(__file__).resolve().parent.parent


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Run the slow tests last, so that a plain mistake shows early."""
    items.sort(key=lambda item: item.get_closest_marker('slow') is not None)


@pytest.fixture(scope='session')
def project_dir() -> Path:
    """Return the checkout's root."""
    return PROJECT_DIR


@pytest.fixture(scope='session')
def shared_dir() -> Path:
    """Return the folder of research-licensed data beside the checkout, which is never shipped."""
    folder = PROJECT_DIR.parent / 'shared'
    if not folder.is_dir():
        pytest.skip(f'no research data at {folder}: it cannot be shipped with the project')
    return folder
