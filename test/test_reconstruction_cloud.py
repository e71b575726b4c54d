# Copyright 2026 qvggt_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Which pixels become points, and PLY files to the byte."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from qvggt_ros.errors import ReconstructionError
from qvggt_ros.reconstruction.cloud import (
    PointCloud,
    confidence_floor,
    edge_mask,
    grid_step,
    write_ply,
)

CLOUD = PointCloud(
    np.array([[1, 2, 3], [-1, 0, 0.5]], np.float32),
    np.array([[255, 0, 0], [0, 255, 1]], np.uint8),
    np.array([1.5, 2], np.float32),
)


def test_slanted_plane_has_no_edge_and_a_step_has() -> None:
    u = np.arange(40, dtype=np.float32)
    floor = np.tile(1 / (0.05 + 0.02 * u), (30, 1)).astype(np.float32)  # a plane, seen flat
    assert not edge_mask(floor, 0.05).any()
    step = np.where(u < 20, 1.0, 2.0).astype(np.float32)
    mask = edge_mask(np.tile(step, (30, 1)), 0.1)
    assert mask[:, 19:21].all() and mask.sum() == 2 * 30
    assert not edge_mask(np.tile(step, (30, 1)), 0.0).any()


def test_confidence_floor_is_the_larger_of_share_and_minimum() -> None:
    confidence = np.arange(1, 11, dtype=np.float32)
    assert confidence_floor(confidence, 0.2, 1.0) == 3
    assert confidence_floor(confidence, 0.2, 5.0) == 5
    assert confidence_floor(confidence, 0.0, 1.0) == 1
    assert confidence_floor(confidence, 1.0, 1.0) == 10


def test_grid_step_is_the_smallest_that_holds_the_bound() -> None:
    assert grid_step(112, 84, 2, 112 * 84 * 2) == 1
    assert grid_step(112, 84, 2, 112 * 84 * 2 - 1) == 2
    assert grid_step(518, 392, 4, 100_000) == 3
    assert grid_step(10, 10, 1, 1) == 10


def test_ply_is_what_it_says(tmp_path: Path) -> None:
    path = tmp_path / 'map.ply'
    write_ply(CLOUD, path)
    header, _, body = path.read_bytes().partition(b'end_header\n')
    assert header.decode().splitlines() == [
        'ply',
        'format binary_little_endian 1.0',
        'element vertex 2',
        'property float x',
        'property float y',
        'property float z',
        'property uchar red',
        'property uchar green',
        'property uchar blue',
        'property float confidence',
    ]
    first = np.array([1, 2, 3], '<f4').tobytes() + bytes([255, 0, 0])
    assert body[:19] == first + np.float32(1.5).tobytes() and len(body) == 38
    assert list(tmp_path.iterdir()) == [path]


def test_ply_that_cannot_be_written_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(ReconstructionError, match='cannot be written'):
        write_ply(CLOUD, tmp_path / 'absent' / 'map.ply')
    blocked = tmp_path / 'blocked.ply'
    blocked.mkdir()
    with pytest.raises(ReconstructionError, match='cannot be written'):
        write_ply(CLOUD, blocked)
    assert list(tmp_path.iterdir()) == [blocked]


def test_joining_no_clouds_gives_an_empty_one() -> None:
    assert len(PointCloud.concatenate([])) == 0
    assert len(PointCloud.concatenate([CLOUD, CLOUD])) == 4
