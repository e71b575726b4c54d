# Copyright 2026 qvggt_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Where a motion takes place: a few starting poses per room, and the best of them.

Best is whose whole path keeps clear of walls and pieces and sees something worth looking at.
Nothing is drawn again, so that the number of random numbers is fixed.
"""

from __future__ import annotations

import numpy as np

from qvggt_ros.synthetic.controls import ORBIT, RANDOM, TURN, Controls
from qvggt_ros.synthetic.poses import climbing, plane_length, turned_left
from qvggt_ros.synthetic.scene import PIECES, Rooms, piece_distance_m, wall_distance_m
from qvggt_ros.synthetic.seeds import BoolArray, Draws, FloatArray
from qvggt_ros.synthetic.sight import PROBES, glance

CANDIDATES = 16
_WALL_CLEARANCE_M = 0.3
_PIECE_CLEARANCE_M = 0.3
_LEAST_VIEW_M = 0.5
_GOOD_VIEW_M = 1.5
# A camera on a turning robot sits ahead of the axis of rotation.
_LEVER_M = 0.15


class Candidates:
    """Candidate starting poses of a batch; arrays are [B, CANDIDATES, ...]."""

    def __init__(
        self, draws: Draws, rooms: Rooms, handheld: BoolArray, tangent: FloatArray, aspect: float
    ):
        self._rooms, self._tangent, self._aspect = rooms, tangent, aspect
        place = draws.uniform(-1.0, 1.0, CANDIDATES, 2)
        low, high = draws.uniform(0.3, 1.3, 1), draws.uniform(1.1, 1.8, 1)
        height = np.where(handheld[:, None], high, low) * np.ones((1, CANDIDATES))
        reach = rooms.half_m[:, :1, :2] - _WALL_CLEARANCE_M - 0.05
        self._start = np.concatenate([place * reach, height[:, :, None]], axis=2)
        # Many look roughly inwards: there is more to see.
        heading = np.stack(draws.direction(CANDIDATES), axis=2)
        inwards = draws.chance(0.6, CANDIDATES)[:, :, None]
        heading = np.where(inwards, heading - 1.5 * place, heading)
        self._heading = heading / plane_length(heading)[..., None]
        self._slope = draws.uniform(-0.3, 0.12, 1) * np.ones((1, CANDIDATES))
        self._forward = climbing(self._heading, self._slope)
        self._first = glance(rooms, self._start, self._forward, tangent, aspect)
        self._seen_m = _median(self._first[0])

    def best(self, controls: Controls) -> tuple[FloatArray, FloatArray]:
        """Return positions (metres) and unit forward directions [B, S, 3] of the best ones."""
        positions, forward = self._paths(controls)
        chosen = self._score(positions, forward).argmax(axis=1)[:, None, None, None]
        positions = np.take_along_axis(positions, chosen, axis=1)[:, 0]
        forward = np.take_along_axis(forward, chosen, axis=1)[:, 0]
        # Pieces in the way can be taken out of the room, walls cannot.
        middle = self._rooms.centre_m[:, None, 0]
        reach = self._rooms.half_m[:, None, 0] - 0.2
        return np.clip(positions, middle - reach, middle + reach), forward

    def _score(self, positions: FloatArray, forward: FloatArray) -> FloatArray:
        """Rate candidate paths, [B, C]: a full mark per rule that is kept."""
        shape = positions.shape[:3]
        flat = positions.reshape(shape[0], -1, 3)
        walls = wall_distance_m(self._rooms, flat).reshape(shape).min(axis=2)
        pieces = piece_distance_m(self._rooms, flat).reshape(*shape, PIECES).min(axis=(2, 3))
        last = glance(
            self._rooms, positions[:, :, -1], forward[:, :, -1], self._tangent, self._aspect
        )
        nearest = np.minimum(self._first[0].min(axis=2), last[0].min(axis=2))
        typical = np.minimum(self._seen_m, _median(last[0]))
        furnished = np.minimum(self._first[1].sum(axis=2), last[1].sum(axis=2))
        score = 4.0 * np.clip(walls / _WALL_CLEARANCE_M, -1.0, 1.0)
        score = score + 2.0 * np.clip(pieces / _PIECE_CLEARANCE_M, 0.0, 1.0)
        score = score + np.clip(nearest / _LEAST_VIEW_M, 0.0, 1.0)
        score = score + np.clip(typical / _GOOD_VIEW_M, 0.0, 1.0)
        return score + 0.5 * np.minimum(furnished, 3)

    def _paths(self, controls: Controls) -> tuple[FloatArray, FloatArray]:
        """Return positions and forward directions of all candidates, [B, C, S, 3]."""
        scale = np.clip(self._seen_m, 0.6, 4.0)[..., None]
        ahead, aside, above = (
            scale * control[:, None]
            for control in (controls.ahead, controls.right, controls.above)
        )
        heading = self._heading[:, :, None]
        right = np.stack([heading[..., 1], -heading[..., 0]], axis=-1)
        plane = self._start[:, :, None, :2] + heading * ahead[..., None] + right * aside[..., None]
        height = self._start[:, :, None, 2] + above
        turned = turned_left(heading, controls.turn[:, None])
        slope = self._slope[:, :, None] + controls.nod[:, None]
        plane = plane + _LEVER_M * _only(controls, TURN) * (turned - heading)
        plane, turned = self._circled(controls, scale, plane, turned)
        turned, slope = self._aimed(controls, scale, plane, height, turned, slope)
        tremor = controls.tremor[:, None]
        turned = turned_left(turned, 0.002 * tremor[..., 0])
        slope = np.clip(slope + 0.006 * tremor[..., 1], -0.9, 0.9)
        positions = np.concatenate([plane, height[..., None]], axis=-1) + 0.004 * tremor[..., 2:]
        return positions, climbing(turned, slope)

    def _circled(
        self, controls: Controls, scale: FloatArray, plane: FloatArray, turned: FloatArray
    ) -> tuple[FloatArray, FloatArray]:
        """Orbits: circle around what the middle of the first picture shows."""
        heading, radius = self._heading[:, :, None], 0.9 * scale[..., None]
        around = turned_left(heading, controls.circle[:, None])
        circle = self._start[:, :, None, :2] + (heading - around) * radius
        orbits = _only(controls, ORBIT) > 0.0
        return np.where(orbits, circle, plane), np.where(orbits, around, turned)

    def _aimed(
        self,
        controls: Controls,
        scale: FloatArray,
        plane: FloatArray,
        height: FloatArray,
        turned: FloatArray,
        slope: FloatArray,
    ) -> tuple[FloatArray, FloatArray]:
        """Unordered views: all look roughly at what the middle of the first picture shows."""
        target = self._start[:, :, None] + self._forward[:, :, None] * scale[..., None]
        offset = target[..., :2] - plane
        # A view from right above or below the target keeps its slope within reason.
        distance = np.maximum(plane_length(offset), 0.3)
        towards = turned_left(offset / distance[..., None], controls.turn[:, None])
        climb = (target[..., 2] - height) / distance + controls.nod[:, None]
        unordered = _only(controls, RANDOM)[..., 0] > 0.0
        return np.where(unordered[..., None], towards, turned), np.where(unordered, climb, slope)


def _only(controls: Controls, kind: int) -> FloatArray:
    return np.where(controls.kind == kind, 1.0, 0.0)[:, None, None, None]


def _median(values: FloatArray) -> FloatArray:
    return np.sort(values, axis=2)[:, :, PROBES // 2]
