# Copyright 2026 qvggt_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""The picture: read what the node writes, draw with and without the truth."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest

from qvggt_ros.evaluation.demo_report import DrawnCloud, Picture, draw, moved, read_map
from qvggt_ros.reconstruction.cloud import PointCloud, write_ply

RNG = np.random.default_rng(0)
CLOUD = DrawnCloud(RNG.normal(size=(500, 3)), RNG.integers(0, 256, (500, 3)).astype(np.uint8))
PATH = np.cumsum(RNG.normal(size=(30, 3)), axis=0)


def test_a_map_is_read_as_the_node_writes_it(tmp_path: Path) -> None:
    xyz, rgb = CLOUD.xyz.astype(np.float32), CLOUD.rgb
    write_ply(PointCloud(xyz, rgb, np.ones(500, np.float32)), tmp_path / 'map.ply')
    found = read_map(tmp_path / 'map.ply')
    np.testing.assert_array_equal(found.xyz, xyz)
    np.testing.assert_array_equal(found.rgb, rgb)


def test_a_similarity_moves_points() -> None:
    similarity = np.diag([2.0, 2.0, 2.0, 1.0])
    similarity[:3, 3] = [1, 0, 0]
    np.testing.assert_allclose(moved(CLOUD, similarity).xyz, 2 * CLOUD.xyz + [1, 0, 0])


@pytest.mark.parametrize('with_truth', [True, False])
def test_the_picture_is_a_png(tmp_path: Path, with_truth: bool) -> None:
    frames = [np.zeros((48, 64, 3), np.uint8)] * 4
    picture = Picture(frames, CLOUD, PATH, CLOUD, PATH, 'title')
    if not with_truth:
        picture = replace(picture, true_map=None, true_path=None)
    draw(picture, tmp_path / 'demo.png')
    drawn = cv2.imread(str(tmp_path / 'demo.png'))
    assert drawn is not None and drawn.shape[0] > 500 and drawn.std() > 10
    assert [p.name for p in tmp_path.iterdir()] == ['demo.png']


def test_an_empty_map_is_drawn_too(tmp_path: Path) -> None:
    empty = DrawnCloud(np.empty((0, 3)), np.empty((0, 3), np.uint8))
    draw(Picture([], empty, PATH, None, None, 'title'), tmp_path / 'demo.png')
    assert (tmp_path / 'demo.png').exists()
