# Copyright 2026 qvggt_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Rooms: sizes, furniture that stands on something, textures and lights within bounds."""

from __future__ import annotations

import numpy as np
import pytest

from qvggt_ros.synthetic import scene
from qvggt_ros.synthetic.furnishing import build_rooms
from qvggt_ros.synthetic.materials import MATERIAL_FIELDS
from qvggt_ros.synthetic.scene import Rooms, piece_distance_m, wall_distance_m


@pytest.fixture(scope='module')
def rooms() -> Rooms:
    return build_rooms(range(300))


def test_rooms_have_the_sizes_of_rooms(rooms: Rooms) -> None:
    size = 2.0 * rooms.half_m[:, 0]
    assert size[:, :2].min() >= 3.0
    assert size[:, :2].max() <= 8.0
    assert size[:, 2].min() >= 2.4
    assert size[:, 2].max() <= 3.5
    assert (rooms.centre_m[:, 0, 2] == rooms.half_m[:, 0, 2]).all()


def test_rooms_are_furnished(rooms: Rooms) -> None:
    pieces = rooms.used[:, scene.FIRST_BOX : scene.FIRST_NICHE].sum(axis=1)
    assert np.quantile(pieces, 0.05) >= 6
    assert pieces.max() <= scene.PIECES
    assert rooms.used[:, scene.FIRST_NICHE :].mean() == pytest.approx(0.6, abs=0.1)


def test_pieces_stand_on_the_floor_or_on_their_bearer(rooms: Rooms) -> None:
    bottom = rooms.centre_m[:, :, 2] - rooms.half_m[:, :, 2]
    top = rooms.centre_m[:, :, 2] + rooms.half_m[:, :, 2]
    small = [
        *range(scene.TABLE + scene.FREE_PIECES, scene.FIRST_CYLINDER),
        *range(scene.FIRST_CYLINDER + scene.FLOOR_CYLINDERS, scene.TABLE_LEG),
        *range(scene.FIRST_ELLIPSOID + 1, scene.FIRST_NICHE - 1),
    ]
    for slot in small:
        used = rooms.used[:, slot]
        bearer = rooms.parent[used, slot]
        assert (bearer > 0).all()
        assert np.allclose(bottom[used, slot], top[np.flatnonzero(used), bearer])
    walls = slice(scene.FIRST_BOX, scene.TABLE)
    assert np.allclose(bottom[:, walls][rooms.used[:, walls]], 0.0)


def test_pieces_are_inside_the_room(rooms: Rooms) -> None:
    pieces = slice(scene.FIRST_BOX, scene.FIRST_NICHE)
    inside = np.abs(rooms.centre_m[:, pieces] - rooms.centre_m[:, :1])
    assert (inside <= rooms.half_m[:, :1])[rooms.used[:, pieces]].all()


def test_taking_out_a_piece_takes_out_what_stands_on_it(rooms: Rooms) -> None:
    removed = np.zeros((300, scene.SLOTS), dtype=bool)
    removed[:, scene.FIRST_BOX : scene.TABLE + scene.FREE_PIECES] = True
    left = rooms.without(removed)
    borne = rooms.parent > 0
    assert not left.used[:, scene.FIRST_BOX : scene.TABLE + scene.FREE_PIECES].any()
    assert not left.used[borne].any()
    others = ~borne & ~removed
    assert (left.used == rooms.used)[others].all()
    assert left.used[:, 0].all()


def test_tables_are_complete(rooms: Rooms) -> None:
    assert set(rooms.materials) == set(MATERIAL_FIELDS)
    for name, values in rooms.materials.items():
        assert values.shape == (300, scene.MATERIALS), name
        assert np.isfinite(values).all(), name
    colours = [v for n, v in rooms.materials.items() if n[-2:] in ('_r', '_g', '_b')]
    assert min(c.min() for c in colours) >= 0.0
    assert max(c.max() for c in colours) <= 1.0
    assert rooms.face_material.min() >= 0
    assert rooms.face_material.max() < scene.MATERIALS
    assert rooms.decals[..., 5].max() < scene.MATERIALS


def test_lamps_hang_inside_the_room(rooms: Rooms) -> None:
    gap = wall_distance_m(rooms, rooms.light_m)
    assert gap.min() > 0.0
    assert rooms.light_rgb.min() > 0.0
    assert rooms.ambient_rgb.min() > 0.0


def test_distances_to_a_box_worked_by_hand() -> None:
    rooms = build_rooms([0])
    rooms.centre_m[0, 1], rooms.half_m[0, 1] = (1.0, 0.0, 0.5), (0.5, 0.25, 0.5)
    rooms.yaw_cos[0, 1], rooms.yaw_sin[0, 1] = 0.0, 1.0  # a quarter turn: long side along y
    points = np.array([[[1.0, 0.0, 0.5], [2.0, 0.0, 0.5], [1.0, 1.5, 0.5], [1.55, 0.0, 1.4]]])
    distance = piece_distance_m(rooms, points)[0, :, 0]
    assert distance == pytest.approx([-0.25, 0.75, 1.0, 0.5])
