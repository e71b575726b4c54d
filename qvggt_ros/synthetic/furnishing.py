# Copyright 2026 qvggt_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Furnish rooms: draw what stands where, of what it is made, and how it is lit.

The order of the draws is part of what a seed means: whoever changes it changes every room.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from qvggt_ros.synthetic.materials import build_materials
from qvggt_ros.synthetic.scene import (
    DECALS,
    FACES,
    FIRST_BOX,
    FIRST_CYLINDER,
    FIRST_ELLIPSOID,
    FIRST_NICHE,
    FLOOR_CYLINDERS,
    FREE_PIECES,
    LIGHTS,
    MATERIALS,
    NICHES,
    SLOTS,
    SMALL_BOXES,
    SMALL_CYLINDERS,
    TABLE,
    TABLE_LEG,
    UNUSED_Z_M,
    WALL_PIECES,
    Rooms,
)
from qvggt_ros.synthetic.seeds import BoolArray, Draws, FloatArray, IntArray, scene_hash

# Materials 0 .. 3 are for walls; furniture, then pictures and labels have the rest.
_FLOOR, _CEILING, _FURNITURE, _DECAL = 4, 5, 6, 22
_DRAWS = 6144


def build_rooms(seeds: Sequence[int] | IntArray) -> Rooms:
    """Build the rooms of some seeds."""
    builder = _Builder(seeds)
    builder.room()
    builder.wall_pieces()
    builder.free_pieces()
    builder.floor_rounds()
    builder.small_pieces()
    builder.lamp()
    builder.niches()
    lights = builder.lights()
    face_material = builder.face_materials()
    return Rooms(
        hash_words=scene_hash(seeds),
        centre_m=builder.centre,
        half_m=builder.half,
        yaw_cos=builder.cosine,
        yaw_sin=builder.sine,
        parent=builder.parent,
        face_material=face_material,
        decals=builder.decals(),
        materials=builder.material_table(),
        light_m=lights[0],
        light_rgb=lights[1],
        ambient_rgb=lights[2],
    )


class _Builder:
    """Fills the slots; the order of the calls is the order of the draws."""

    def __init__(self, seeds: Sequence[int] | IntArray):
        count = len(seeds)
        self.draws = Draws(seeds, _DRAWS, stream=1)
        self.centre = np.zeros((count, SLOTS, 3))
        self.half = np.full((count, SLOTS, 3), 0.01)
        self.cosine = np.ones((count, SLOTS))
        self.sine = np.zeros((count, SLOTS))
        self.parent = np.zeros((count, SLOTS), dtype=np.int64)
        self.density = self.draws.uniform(0.5, 1.0)
        self.centre[:, 1:, 2] = UNUSED_Z_M

    def _present(self, *shape: int) -> BoolArray:
        density = self.density.reshape(-1, *([1] * len(shape)))
        return self.draws.unit(*shape) < density

    def room(self) -> None:
        """Size the room: 3-8 m by 3-8 m by 2.4-3.5 m."""
        half = self.draws.uniform(0.0, 1.0, 3)
        low, high = np.array([1.5, 1.5, 1.2]), np.array([4.0, 4.0, 1.75])
        self.half[:, 0] = low + (high - low) * half
        self.centre[:, 0, 2] = self.half[:, 0, 2]

    def _place(
        self,
        slots: slice,
        present: BoolArray,
        centre: tuple[FloatArray, FloatArray, FloatArray],
        half: tuple[FloatArray, FloatArray, FloatArray],
        yaw: tuple[FloatArray, FloatArray],
    ) -> None:
        unused = (0.0, 0.0, UNUSED_Z_M)
        for axis in range(3):
            self.centre[:, slots, axis] = np.where(present, centre[axis], unused[axis])
            self.half[:, slots, axis] = np.where(present, half[axis], 0.01)
        self.cosine[:, slots], self.sine[:, slots] = yaw

    def wall_pieces(self) -> None:
        """Shelves, cabinets, benches with their backs to a wall."""
        draws, count = self.draws, WALL_PIECES
        along, deep = draws.uniform(0.3, 0.9, count), draws.uniform(0.15, 0.4, count)
        low, high = draws.uniform(0.2, 0.5, count), draws.uniform(0.5, 1.1, count)
        tall = np.where(draws.chance(0.5, count), low, high)
        wall, place = draws.index(4, count), draws.uniform(-1.0, 1.0, count)
        gap = draws.uniform(0.0, 0.1, count)
        room_x, room_y = self.half[:, 0, 0:1], self.half[:, 0, 1:2]
        # Walls 0 and 1 close the x axis, so pieces there run along y.
        on_x = wall < 2
        sign = np.where(wall % 2 == 0, -1.0, 1.0)
        across = np.where(on_x, room_x, room_y) - deep - gap
        free = np.maximum(np.where(on_x, room_y, room_x) - along, 0.0)
        x = np.where(on_x, sign * across, place * free)
        y = np.where(on_x, place * free, sign * across)
        half_x, half_y = np.where(on_x, deep, along), np.where(on_x, along, deep)
        level = np.ones_like(x), np.zeros_like(x)
        self._place(
            slice(FIRST_BOX, TABLE),
            self._present(count),
            (x, y, tall),
            (half_x, half_y, tall),
            level,
        )

    def free_pieces(self) -> None:
        """Put a table or crate and another crate, anywhere and at any angle."""
        draws, count = self.draws, FREE_PIECES
        half_x, half_y = draws.uniform(0.2, 0.7, count), draws.uniform(0.2, 0.5, count)
        half_z = draws.uniform(0.15, 0.5, count)
        is_table = draws.chance(0.6, count) & (np.arange(count) == 0)
        top = draws.uniform(0.5, 0.95, count)
        z = np.where(is_table, top, half_z)
        half_z = np.where(is_table, 0.03, half_z)
        x = draws.uniform(-0.75, 0.75, count) * self.half[:, 0, 0:1]
        y = draws.uniform(-0.75, 0.75, count) * self.half[:, 0, 1:2]
        present = self._present(count)
        yaw = draws.direction(count)
        slots = slice(TABLE, TABLE + count)
        self._place(slots, present, (x, y, z), (half_x, half_y, half_z), yaw)
        leg = slice(TABLE_LEG, TABLE_LEG + 1)
        radius = draws.uniform(0.04, 0.12, 1)
        standing = is_table[:, :1] & present[:, :1]
        height = 0.5 * (z[:, :1] - half_z[:, :1])
        level = np.ones_like(height), np.zeros_like(height)
        self._place(leg, standing, (x[:, :1], y[:, :1], height), (radius, radius, height), level)
        self.parent[:, TABLE_LEG] = TABLE

    def floor_rounds(self) -> None:
        """Bins, stools and columns, and a ball on the floor."""
        draws, count = self.draws, FLOOR_CYLINDERS
        radius = draws.uniform(0.1, 0.35, count)
        low, high = draws.uniform(0.2, 0.5, count), draws.uniform(0.6, 1.2, count)
        height = np.where(draws.chance(0.7, count), low, high)
        level = np.ones_like(radius), np.zeros_like(radius)
        slots = slice(FIRST_CYLINDER, FIRST_CYLINDER + count)
        x, y = self._on_floor(count)
        half = radius, radius, height
        self._place(slots, self._present(count), (x, y, height), half, level)
        ball = slice(FIRST_ELLIPSOID, FIRST_ELLIPSOID + 1)
        radius = draws.uniform(0.15, 0.4, 1)
        x, y = self._on_floor(1)
        self._place(
            ball, self._present(1), (x, y, radius), (radius, radius, radius), draws.direction(1)
        )

    def _on_floor(self, count: int) -> tuple[FloatArray, FloatArray]:
        x = self.draws.uniform(-0.9, 0.9, count) * self.half[:, 0, 0:1]
        y = self.draws.uniform(-0.9, 0.9, count) * self.half[:, 0, 1:2]
        return x, y

    def small_pieces(self) -> None:
        """Things that stand on furniture: boxes, cans, fruit."""
        small_cylinders = FIRST_CYLINDER + FLOOR_CYLINDERS
        draws = self.draws
        wide = draws.uniform(0.05, 0.25, SMALL_BOXES), draws.uniform(0.04, 0.2, SMALL_BOXES)
        self._stand(TABLE + FREE_PIECES, (*wide, draws.uniform(0.04, 0.25, SMALL_BOXES)))
        radius = draws.uniform(0.04, 0.15, SMALL_CYLINDERS)
        tall = draws.uniform(0.05, 0.2, SMALL_CYLINDERS)
        self._stand(small_cylinders, (radius, radius, tall))
        radius, tall = draws.uniform(0.05, 0.18, 2), draws.uniform(0.05, 0.18, 2)
        self._stand(FIRST_ELLIPSOID + 1, (radius, radius, tall))

    def _stand(self, first: int, half: tuple[FloatArray, FloatArray, FloatArray]) -> None:
        """Put slots first .. on top of boxes that stand on the floor."""
        draws, count = self.draws, half[0].shape[1]
        bearer = FIRST_BOX + draws.index(WALL_PIECES + FREE_PIECES, count)

        def of_bearer(values: FloatArray) -> FloatArray:
            return np.take_along_axis(values, bearer, axis=1)

        right = draws.uniform(-0.8, 0.8, count) * of_bearer(self.half[:, :, 0])
        ahead = draws.uniform(-0.8, 0.8, count) * of_bearer(self.half[:, :, 1])
        cosine, sine = of_bearer(self.cosine), of_bearer(self.sine)
        x = of_bearer(self.centre[:, :, 0]) + cosine * right - sine * ahead
        y = of_bearer(self.centre[:, :, 1]) + sine * right + cosine * ahead
        # A crate at any angle may reach into the wall; what stands on it does not.
        free_x, free_y = self.half[:, 0, 0:1] - half[0], self.half[:, 0, 1:2] - half[0]
        x, y = np.clip(x, -free_x, free_x), np.clip(y, -free_y, free_y)
        z = of_bearer(self.centre[:, :, 2]) + of_bearer(self.half[:, :, 2]) + half[2]
        present = self._present(count) & (of_bearer(self.centre[:, :, 2]) > 0.0)
        slots = slice(first, first + count)
        self._place(slots, present, (x, y, z), half, draws.direction(count))
        self.parent[:, slots] = np.where(present, bearer, 0)

    def lamp(self) -> None:
        """Hang a lamp under the ceiling."""
        draws = self.draws
        radius, tall = draws.uniform(0.12, 0.3, 1), draws.uniform(0.08, 0.2, 1)
        x, y = self._on_floor(1)
        z = 2.0 * self.half[:, 0, 2:3] - tall - draws.uniform(0.0, 0.4, 1)
        slot = slice(FIRST_NICHE - 1, FIRST_NICHE)
        self._place(slot, self._present(1), (x, y, z), (radius, radius, tall), draws.direction(1))

    def niches(self) -> None:
        """Doorways and windows, one in an x wall and one in a y wall."""
        draws = self.draws
        sign = np.where(draws.chance(0.5, NICHES), 1.0, -1.0)
        depth = draws.uniform(0.1, 1.2, NICHES)
        wide = draws.uniform(0.3, 0.7, NICHES)
        room = self.half[:, 0]
        is_door = draws.chance(0.5, NICHES)
        tall = np.where(is_door, draws.uniform(0.9, 1.05, NICHES), draws.uniform(0.3, 0.6, NICHES))
        sill = np.where(is_door, 0.0, draws.uniform(0.7, 1.1, NICHES))
        along = draws.uniform(-0.8, 0.8, NICHES) * (room[:, (1, 0)] - wide)
        outwards = sign * (room[:, :2] + depth)
        x = np.stack([outwards[:, 0], along[:, 1]], axis=1)
        y = np.stack([along[:, 0], outwards[:, 1]], axis=1)
        half_x = np.stack([depth[:, 0], wide[:, 1]], axis=1)
        half_y = np.stack([wide[:, 0], depth[:, 1]], axis=1)
        level = np.ones_like(wide), np.zeros_like(wide)
        present = draws.chance(0.6, NICHES)
        slots = slice(FIRST_NICHE, SLOTS)
        self._place(slots, present, (x, y, sill + tall), (half_x, half_y, tall), level)

    def lights(self) -> tuple[FloatArray, FloatArray, FloatArray]:
        """Two lamps below the ceiling and ambient light, each with its own tint."""
        draws = self.draws
        place = draws.uniform(-0.8, 0.8, LIGHTS, 3)
        place[:, :, 2] = 0.75 + 0.2 * place[:, :, 2]
        position = place * self.half[:, :1]
        position[:, :, 2] += self.half[:, :1, 2]
        tint = 1.0 - draws.uniform(0.0, 0.35, LIGHTS, 3) * draws.unit(LIGHTS, 1)
        power = draws.uniform(0.5, 3.5, LIGHTS, 1)
        ambient = draws.uniform(0.25, 0.7, 1) * (1.0 - draws.uniform(0.0, 0.2, 3))
        return position, tint * power, ambient

    def face_materials(self) -> IntArray:
        """Say of what each face is made."""
        draws = self.draws
        sides = _FURNITURE + draws.index(_DECAL - _FURNITURE, SLOTS, 1)
        tops = _FURNITURE + draws.index(_DECAL - _FURNITURE, SLOTS, 2)
        odd = draws.chance(0.25, SLOTS, 1)
        walls = np.broadcast_to(sides, (*sides.shape[:2], 4))
        table = np.concatenate([walls, np.where(odd, sides, tops)], axis=2)
        same = draws.chance(0.5, 1)
        table[:, 0, :4] = np.where(same, 0, np.arange(4))
        table[:, 0, 4], table[:, 0, 5] = _FLOOR, _CEILING
        return table

    def decals(self) -> FloatArray:
        """Pictures, boards, doors on walls; drawers, labels, screens on furniture."""
        draws = self.draws
        shape = SLOTS, FACES, DECALS
        across = np.array([[1, 2], [1, 2], [0, 2], [0, 2], [0, 1], [0, 1]])
        extent = self.half[:, :, across]  # [B, SLOTS, FACES, 2]: half sizes of each face
        table = np.empty((len(extent), *shape, 6))
        for axis in range(2):
            limit = extent[:, :, :, axis, None]
            size = np.minimum(
                draws.uniform(0.12, 0.8, *shape), draws.uniform(0.3, 0.9, 1, 1, 1) * limit
            )
            table[..., axis] = draws.uniform(-1.0, 1.0, *shape) * (limit - size)
            table[..., 2 + axis] = size
        present = draws.chance(0.55, *shape)
        present[:, 0, 5] = False
        table[..., 2] = np.where(present, table[..., 2], -1.0)
        table[..., 4] = np.minimum(table[..., 2], table[..., 3]) * draws.uniform(0.0, 0.2, *shape)
        table[..., 5] = _DECAL + draws.index(MATERIALS - _DECAL, *shape)
        return table

    def material_table(self) -> dict[str, FloatArray]:
        """Draw the materials; pictures and labels are finer and stronger than furniture."""
        table = build_materials(self.draws, MATERIALS)
        fine = np.arange(MATERIALS) >= _DECAL
        for name in ('cells_per_m_u', 'cells_per_m_v', 'noise_per_m'):
            table[name] = np.where(fine, 2.0 * table[name], table[name])
        table['joint_half_m'] = np.where(fine, 0.5, 1.0) * table['joint_half_m']
        table['disc_radius_m'] = np.where(fine, 0.5, 1.0) * table['disc_radius_m']
        glows = fine & self.draws.chance(0.2, MATERIALS)
        table['emission'] = np.where(glows, self.draws.uniform(0.2, 0.8, MATERIALS), 0.0)
        return table
