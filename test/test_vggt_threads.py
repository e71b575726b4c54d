# Copyright 2026 qvggt_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Narrow networks get one thread, wide ones keep theirs."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch

from qvggt_ros.vggt import VGGTConfig, fit_threads


@pytest.fixture
def three_threads() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    yield
    torch.set_num_threads(before)


@pytest.mark.usefixtures('three_threads')
@pytest.mark.parametrize(
    ('config', 'threads'), [(VGGTConfig.demo(), 1), (VGGTConfig.vggt_1b(), 3)]
)
def test_threads_follow_the_width(config: VGGTConfig, threads: int) -> None:
    fit_threads(config)
    assert torch.get_num_threads() == threads
