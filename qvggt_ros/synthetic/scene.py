# Copyright 2026 qvggt_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Furnished rooms, many at once: what stands where, and what each surface is made of.

World frame: metres, z up, the origin on the floor in the middle of the room. A room is a list of
slots with a fixed kind each (box, cylinder, ellipsoid), so that a batch of rooms is a few arrays;
what a room does not use lies far below its floor. Slot 0 is the room itself, a box seen from
inside; the last slots are niches, boxes cut outwards into a wall: doorways and windows.
"""

from __future__ import annotations

from dataclasses import dataclass, fields, replace

import numpy as np

from qvggt_ros.synthetic.seeds import BoolArray, FloatArray, IntArray

WALL_PIECES = 5
FREE_PIECES = 2
SMALL_BOXES = 6
BOXES = WALL_PIECES + FREE_PIECES + SMALL_BOXES
FLOOR_CYLINDERS = 2
SMALL_CYLINDERS = 2
CYLINDERS = FLOOR_CYLINDERS + SMALL_CYLINDERS + 1  # the last one is the leg of a table
ELLIPSOIDS = 4
NICHES = 2

FIRST_BOX = 1
FIRST_CYLINDER = FIRST_BOX + BOXES
FIRST_ELLIPSOID = FIRST_CYLINDER + CYLINDERS
FIRST_NICHE = FIRST_ELLIPSOID + ELLIPSOIDS
SLOTS = FIRST_NICHE + NICHES
PIECES = FIRST_NICHE - FIRST_BOX
TABLE = FIRST_BOX + WALL_PIECES
TABLE_LEG = FIRST_ELLIPSOID - 1

MATERIALS = 30
DECALS = 2
FACES = 6  # -x +x -y +y -z +z
LIGHTS = 2
UNUSED_Z_M = -50.0


@dataclass(frozen=True)
class Rooms:
    """A batch of rooms; every array has the batch B first, then slots, faces or materials."""

    hash_words: np.ndarray  # int32 [B]
    centre_m: FloatArray  # [B, SLOTS, 3]
    half_m: FloatArray  # [B, SLOTS, 3], half sizes along the slot's own axes
    yaw_cos: FloatArray  # [B, SLOTS]
    yaw_sin: FloatArray  # [B, SLOTS]
    parent: IntArray  # [B, SLOTS], the slot that a piece stands on; 0 is the floor
    face_material: IntArray  # [B, SLOTS, FACES]
    decals: FloatArray  # [B, SLOTS, FACES, DECALS, 6]: centre u v, half u v (m), border, material
    materials: dict[str, FloatArray]  # MATERIAL_FIELDS, each [B, MATERIALS]
    light_m: FloatArray  # [B, LIGHTS, 3]
    light_rgb: FloatArray  # [B, LIGHTS, 3], power / m^2
    ambient_rgb: FloatArray  # [B, 3]

    @property
    def used(self) -> BoolArray:
        """Which slots the rooms use, [B, SLOTS]."""
        return self.centre_m[:, :, 2] > 0.5 * UNUSED_Z_M

    def part(self, rows: slice) -> Rooms:
        """Return some rooms of the batch."""
        values = {f.name: getattr(self, f.name) for f in fields(self)}
        materials = {name: column[rows] for name, column in values.pop('materials').items()}
        return Rooms(**{n: v[rows] for n, v in values.items()}, materials=materials)

    def without(self, removed: BoolArray) -> Rooms:
        """Return the rooms without some slots ([B, SLOTS]) and whatever stands on them."""
        removed = removed | np.take_along_axis(removed, self.parent, axis=1)
        removed = removed & (np.arange(SLOTS) >= FIRST_BOX)
        centre = self.centre_m.copy()
        centre[:, :, 2] = np.where(removed, UNUSED_Z_M, centre[:, :, 2])
        half = np.where(removed[:, :, None], 0.01, self.half_m)
        return replace(self, centre_m=centre, half_m=half)


def piece_distance_m(rooms: Rooms, points_m: FloatArray) -> FloatArray:
    """Return how far points are from each piece, [B, K, PIECES], from points [B, K, 3].

    A piece counts as its bounding box in its own yaw frame (negative inside), so the distance is
    a lower bound for round pieces.
    """
    pieces = slice(FIRST_BOX, FIRST_NICHE)
    offset = points_m[:, :, None, :] - rooms.centre_m[:, None, pieces]
    cosine, sine = rooms.yaw_cos[:, None, pieces], rooms.yaw_sin[:, None, pieces]
    local_x = cosine * offset[..., 0] + sine * offset[..., 1]
    local_y = cosine * offset[..., 1] - sine * offset[..., 0]
    half = rooms.half_m[:, None, pieces]
    over_x = np.abs(local_x) - half[..., 0]
    over_y = np.abs(local_y) - half[..., 1]
    over_z = np.abs(offset[..., 2]) - half[..., 2]
    out_x, out_y = np.maximum(over_x, 0.0), np.maximum(over_y, 0.0)
    out_z = np.maximum(over_z, 0.0)
    outside = np.sqrt(out_x * out_x + out_y * out_y + out_z * out_z)
    inside = np.minimum(np.maximum(np.maximum(over_x, over_y), over_z), 0.0)
    return outside + inside


def wall_distance_m(rooms: Rooms, points_m: FloatArray) -> FloatArray:
    """Return how far points [B, K, 3] are inside the room's walls, floor and ceiling, [B, K]."""
    gap = rooms.half_m[:, None, 0] - np.abs(points_m - rooms.centre_m[:, None, 0])
    return np.minimum(np.minimum(gap[..., 0], gap[..., 1]), gap[..., 2])
