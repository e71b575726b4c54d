# Copyright 2026 qvggt_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""How cameras move through a room: short windows of a robot's motion, or of unordered views.

Every scene tries a few starting poses at once and keeps the first one whose whole path stays in
free space and looks at something; pieces that still stand in the way are taken out of the room.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from qvggt_ros.errors import UsageError
from qvggt_ros.synthetic.raycast import Cameras
from qvggt_ros.synthetic.scene import (
    FIRST_BOX,
    FIRST_NICHE,
    PIECES,
    SLOTS,
    Rooms,
    piece_distance_m,
    wall_distance_m,
)
from qvggt_ros.synthetic.seeds import Draws, FloatArray, IntArray, rotation

KINDS = ('forward', 'turn', 'sideways', 'stop', 'shake', 'orbit', 'random')
FORWARD, TURN, SIDEWAYS, STOP, SHAKE, ORBIT, RANDOM = range(len(KINDS))

CLEARANCE_M = 0.25
WALL_CLEARANCE_M = 0.3
_CANDIDATES = 12
_DRAWS = 256
_DRAWS_PER_FRAME = 16
# Tangents of coarse rays over the picture, as shares of its half width and height.
_PROBES = np.array([(0.0, 0.0), (-0.6, -0.5), (0.6, -0.5), (-0.6, 0.5), (0.6, 0.5), (0.0, 0.5)])


@dataclass(frozen=True)
class MotionConfig:
    """What motion to draw.

    `weights` go with KINDS. Each window draws its own amount of motion between `least` and
    `most`: 0 is almost none, 1 leaves about a third of the first picture in the last one.
    """

    weights: tuple[float, ...] = (0.25, 0.15, 0.1, 0.05, 0.15, 0.15, 0.15)
    least: float = 0.05
    most: float = 1.0
    tan_half_fov: tuple[float, float] = (0.4663, 1.1918)  # 50 .. 100 degrees across
    shuffled: float = 0.1  # share of windows whose frames come in random order
    interval_s: tuple[float, float] = (0.1, 0.2)

    def __post_init__(self) -> None:
        if len(self.weights) != len(KINDS) or min(self.weights) < 0.0 or sum(self.weights) <= 0.0:
            raise UsageError(f'motion weights {self.weights}: one per kind {KINDS}, some positive')
        if not 0.0 <= self.least <= self.most <= 1.0:
            raise UsageError(f'motion amount {self.least} .. {self.most}: must lie in 0 .. 1')
        low, high = self.tan_half_fov
        if not 0.0 < low <= high:
            raise UsageError(f'field of view {self.tan_half_fov}: tangents must be positive')


@dataclass(frozen=True)
class Motion:
    """The cameras of a batch of windows."""

    cameras: Cameras
    kind: IntArray  # [B], index into KINDS
    stamp_s: FloatArray  # [B, S], from the window's first instant
    free_share: FloatArray  # [B], 1 where the path was free before pieces were taken out


def draw_motion(
    seeds: Sequence[int] | IntArray,
    rooms: Rooms,
    frames: int,
    width: int,
    height: int,
    config: MotionConfig,
) -> tuple[Motion, Rooms]:
    """Draw the cameras of each scene; return them and the rooms with the path cleared."""
    draws = Draws(seeds, _DRAWS + _DRAWS_PER_FRAME * (frames + 8), stream=2)
    kind = draws.weighted(config.weights)
    low, high = config.tan_half_fov
    tangent = draws.uniform(low, high)
    aspect = height / width
    plan = _Plan(draws, rooms, kind, tangent, aspect, frames, config)
    positions, forward = plan.best()
    removed = np.zeros((len(kind), SLOTS), dtype=bool)
    gap = piece_distance_m(rooms, positions)
    blocking = (gap < CLEARANCE_M).any(axis=1)
    removed[:, FIRST_BOX:FIRST_NICHE] = blocking
    rooms = rooms.without(removed)
    order = plan.order()
    focal = 0.5 * width / tangent
    cameras = Cameras(
        rotation=np.take_along_axis(
            look_rotation(forward, plan.roll()), order[:, :, None, None], axis=1
        ),
        centre_m=np.take_along_axis(positions, order[:, :, None], axis=1),
        focal_px=np.stack([focal, focal], axis=1),
    )
    return Motion(cameras, kind, plan.stamps(order), 1.0 - blocking.any(axis=1)), rooms


class _Plan:
    """Candidate paths of a batch; arrays are [B, C] candidates by S frames."""

    def __init__(
        self,
        draws: Draws,
        rooms: Rooms,
        kind: IntArray,
        tangent: FloatArray,
        aspect: float,
        frames: int,
        config: MotionConfig,
    ):
        self.draws, self.rooms, self.kind, self.frames = draws, rooms, kind, frames
        self.tangent, self.aspect, self.config = tangent, aspect, config
        self.amount = draws.uniform(config.least, config.most)
        self.interval_s = draws.uniform(*config.interval_s)
        self.handheld = np.isin(kind, (SHAKE, ORBIT, RANDOM))
        self._start()
        self._controls()

    def _start(self) -> None:
        """Draw where the candidates stand, where they look, and probe how far they see."""
        draws, room = self.draws, self.rooms.half_m[:, 0]
        place = draws.uniform(-1.0, 1.0, _CANDIDATES, 2)
        low = draws.uniform(0.3, 1.3, 1)
        high = draws.uniform(1.1, 1.8, 1)
        height = np.where(self.handheld[:, None], high, low) * np.ones((1, _CANDIDATES))
        reach = room[:, None, :2] - WALL_CLEARANCE_M - 0.05
        self.start = np.concatenate([place * reach, height[:, :, None]], axis=2)
        # Half of the candidates look roughly inwards: more room, more furniture in view.
        heading = np.stack(draws.direction(_CANDIDATES), axis=2)
        inwards = heading - 1.5 * place
        heading = np.where(draws.chance(0.6, _CANDIDATES)[:, :, None], inwards, heading)
        self.heading = heading / _length(heading)[..., None]
        self.slope = draws.uniform(-0.35, 0.15, 1) * np.ones((1, _CANDIDATES))
        forward = _direction(self.heading, self.slope)
        probes = self._probe(self.start, forward)
        self.distance = np.sort(probes, axis=2)[:, :, len(_PROBES) // 2]
        self.seen = probes

    def _probe(self, position: FloatArray, forward: FloatArray) -> FloatArray:
        """Return coarse z-depths of the candidates' views, [B, C, probes]."""
        basis = look_rotation(forward, np.zeros(forward.shape[:2]))
        across = self.tangent[:, None, None, None] * _PROBES[None, None, :, 0:1]
        down = self.tangent[:, None, None, None] * self.aspect * _PROBES[None, None, :, 1:2]
        rays = basis[:, :, None, :, 2] + across * basis[:, :, None, :, 0]
        rays = rays + down * basis[:, :, None, :, 1]
        return _coarse_depth(self.rooms, position, rays)

    def _controls(self) -> None:
        """Draw how a window moves, per frame and the same for all candidates of a scene."""
        draws, count = self.draws, self.frames
        span = max(count - 1, 1)
        uneven = draws.uniform(-0.2, 0.2, count)
        progress = (np.arange(count)[None, :] + uneven * (np.arange(count) > 0)) / span
        sign = np.where(draws.chance(0.5), 1.0, -1.0)[:, None]
        bend = draws.uniform(-1.0, 1.0, 1)
        # Random steps for shaking hands and unordered views.
        jump = draws.uniform(-1.0, 1.0, count, 6)
        tremor = draws.uniform(-1.0, 1.0, count, 5)
        calm = draws.chance(0.5)[:, None] & (self.kind == STOP)[:, None]
        amount, tangent = self.amount[:, None], self.tangent[:, None]
        self.progress, self.sign, self.jump = progress, sign, jump
        kind = self.kind[:, None]
        zero = np.zeros_like(progress)
        conditions = [kind == k for k in (FORWARD, SIDEWAYS, SHAKE, RANDOM)]
        # Lengths are shares of the distance seen, so that overlap does not depend on the room.
        wide = amount * tangent
        self.ahead = np.select(
            conditions,
            [
                0.55 * amount * progress,
                zero,
                0.25 * amount * progress + 0.04 * amount * jump[..., 0],
                0.6 * amount * jump[..., 0],
            ],
            zero,
        )
        self.right = np.select(
            conditions,
            [
                zero,
                1.2 * wide * progress * sign,
                0.2 * amount * progress * bend + 0.04 * amount * jump[..., 1],
                0.8 * amount * jump[..., 1],
            ],
            zero,
        )
        self.above = np.select(
            conditions,
            [zero, zero, 0.03 * amount * jump[..., 2], 0.2 * amount * jump[..., 2]],
            zero,
        )
        turning = [
            0.25 * wide * progress * bend,
            0.1 * wide * progress * bend,
            0.35 * wide * progress * bend + 0.06 * wide * jump[..., 3],
            0.25 * wide * jump[..., 3],
        ]
        turn = np.select(conditions, turning, zero)
        self.turn = np.where(kind == TURN, 0.55 * wide * progress * sign, turn)
        self.nod = np.select(
            conditions,
            [zero, zero, 0.12 * wide * jump[..., 4], 0.15 * wide * jump[..., 4]],
            zero,
        )
        self.lean = np.select(
            conditions,
            [zero, zero, 0.05 * amount * jump[..., 5], 0.12 * amount * jump[..., 5]],
            zero,
        )
        self.tremor = np.where(calm[..., None], 0.0, tremor) * draws.unit(1, 1)

    def best(self) -> tuple[FloatArray, FloatArray]:
        """Return positions and forward directions [B, S, 3] of each scene's best candidate."""
        positions, forward = self._paths()
        batch = len(positions)
        flat = positions.reshape(batch, -1, 3)
        shape = batch, _CANDIDATES, self.frames
        walls = wall_distance_m(self.rooms, flat).reshape(shape).min(axis=2)
        pieces = piece_distance_m(self.rooms, flat).reshape(*shape, PIECES).min(axis=(2, 3))
        last = self._probe(positions[:, :, -1], forward[:, :, -1])
        nearest = np.minimum(self.seen.min(axis=2), last.min(axis=2))
        farthest = np.minimum(self.distance, np.sort(last, axis=2)[:, :, len(_PROBES) // 2])
        # Each term is 1 where its rule is kept; walls cannot be taken out, so they weigh most.
        score = 4.0 * np.minimum(walls / WALL_CLEARANCE_M, 1.0)
        score = score + 2.0 * np.clip(pieces / CLEARANCE_M, 0.0, 1.0)
        score = score + np.clip(nearest / 0.5, 0.0, 1.0) + np.clip(farthest / 1.2, 0.0, 1.0)
        chosen = score.argmax(axis=1)[:, None, None, None]
        positions = np.take_along_axis(positions, chosen, axis=1)[:, 0]
        forward = np.take_along_axis(forward, chosen, axis=1)[:, 0]
        return self._inside(positions), forward

    def _inside(self, positions: FloatArray) -> FloatArray:
        """Keep cameras off the walls even where no candidate did."""
        middle = self.rooms.centre_m[:, None, 0]
        reach = self.rooms.half_m[:, None, 0] - 0.2
        return np.clip(positions, middle - reach, middle + reach)

    def _paths(self) -> tuple[FloatArray, FloatArray]:
        """Return positions and forward directions of all candidates, [B, C, S, 3]."""
        scale = np.clip(self.distance, 0.6, 4.0)[..., None]
        heading, slope = self.heading[:, :, None], self.slope[:, :, None]
        right = np.stack([heading[..., 1], -heading[..., 0]], axis=-1)
        ahead, aside, above = (
            scale * control[:, None] for control in (self.ahead, self.right, self.above)
        )
        plane = self.start[:, :, None, :2] + heading * ahead[..., None] + right * aside[..., None]
        height = self.start[:, :, None, 2] + above
        turned = _turned(heading, 0.5 * self.turn[:, None])
        # A camera on a turning robot sits ahead of the axis of rotation.
        lever = np.where(self.kind == TURN, 0.15, 0.0)[:, None, None, None]
        plane = plane + lever * (turned - heading)
        slope = slope + self.nod[:, None]
        orbit_plane, orbit_heading = self._orbit(scale)
        is_orbit = (self.kind == ORBIT)[:, None, None, None]
        plane = np.where(is_orbit, orbit_plane, plane)
        turned = np.where(is_orbit, orbit_heading, turned)
        towards_plane, towards_slope = self._towards_target(scale, plane, height)
        is_random = (self.kind == RANDOM)[:, None, None]
        turned = np.where(
            is_random[..., None], _turned(towards_plane, 0.5 * self.turn[:, None]), turned
        )
        slope = np.where(is_random, towards_slope + self.nod[:, None], slope)
        turned = _turned(turned, 0.004 * self.tremor[:, None, :, 0])
        slope = slope + 0.006 * self.tremor[:, None, :, 1]
        positions = np.concatenate([plane, height[..., None]], axis=-1)
        positions = positions + 0.004 * self.tremor[:, None, :, 2:]
        return positions, _direction(turned, np.clip(slope, -0.9, 0.9))

    def _orbit(self, scale: FloatArray) -> tuple[FloatArray, FloatArray]:
        """Circle around what the middle of the first picture shows."""
        heading = self.heading[:, :, None]
        radius = scale[..., None] * 0.9
        target = self.start[:, :, None, :2] + heading * radius
        half_angle = 0.3 * self.amount[:, None] * self.progress * self.sign
        turned = _turned(heading, half_angle[:, None])
        return target - turned * radius, turned

    def _towards_target(
        self, scale: FloatArray, plane: FloatArray, height: FloatArray
    ) -> tuple[FloatArray, FloatArray]:
        """Return heading and slope from each position to what the first picture shows."""
        forward = _direction(self.heading, self.slope)[:, :, None]
        target = self.start[:, :, None] + forward * scale[..., None]
        offset = target[..., :2] - plane
        # Passing the target must not make the camera look straight down.
        distance = np.maximum(_length(offset), 0.3)
        return offset / distance[..., None], (target[..., 2] - height) / distance

    def roll(self) -> FloatArray:
        """Return half tangents of the roll about the optical axis, [B, S]."""
        fixed = self.draws.uniform(-0.02, 0.02, 1)
        held = self.draws.uniform(-0.08, 0.08, 1)
        return np.where(self.handheld[:, None], held, fixed) + 0.5 * self.lean

    def order(self) -> IntArray:
        """Return which instant each frame shows, [B, S]."""
        natural = np.broadcast_to(np.arange(self.frames), (len(self.kind), self.frames))
        mixed = np.argsort(self.draws.unit(self.frames), axis=1, kind='stable')
        backwards = natural[:, ::-1]
        natural = np.where(self.draws.chance(0.2)[:, None], backwards, natural)
        return np.where(self.draws.chance(self.config.shuffled)[:, None], mixed, natural)

    def stamps(self, order: IntArray) -> FloatArray:
        """Return the instants of the frames, [B, S]; a backwards drive still has time go on."""
        del order
        return np.arange(self.frames)[None, :] * self.interval_s[:, None]


def look_rotation(forward: FloatArray, roll: FloatArray) -> FloatArray:
    """Return world_from_camera rotations [..., 3, 3] of cameras looking along `forward`.

    Args:
        forward: unit vectors [..., 3] in a world with z up, never vertical.
        roll: half tangents [...] of the roll about the optical axis.

    """
    x, y, z = forward[..., 0], forward[..., 1], forward[..., 2]
    level = np.sqrt(x * x + y * y)
    right = np.stack([y / level, -x / level, np.zeros_like(x)], axis=-1)
    # down = forward x right
    down = np.stack(
        [
            y * right[..., 2] - z * right[..., 1],
            z * right[..., 0] - x * right[..., 2],
            x * right[..., 1] - y * right[..., 0],
        ],
        axis=-1,
    )
    cosine, sine = (part[..., None] for part in rotation(roll))
    return np.stack([cosine * right + sine * down, cosine * down - sine * right, forward], axis=-1)


def _direction(heading: FloatArray, slope: FloatArray) -> FloatArray:
    """Return unit vectors that climb with a slope (rise over run) along unit headings."""
    length = np.sqrt(1.0 + slope * slope)[..., None]
    return np.concatenate([heading / length, slope[..., None] / length], axis=-1)


def _turned(heading: FloatArray, half_tangent: FloatArray) -> FloatArray:
    """Turn headings to the left."""
    cosine, sine = rotation(half_tangent)
    x, y = heading[..., 0], heading[..., 1]
    turned = np.stack([cosine * x - sine * y, sine * x + cosine * y], axis=-1)
    return turned / _length(turned)[..., None]


def _length(vector: FloatArray) -> FloatArray:
    return np.sqrt(vector[..., 0] * vector[..., 0] + vector[..., 1] * vector[..., 1])


def _coarse_depth(rooms: Rooms, position: FloatArray, rays: FloatArray) -> FloatArray:
    """Return z-depth along rays [B, C, R, 3] from positions [B, C, 3]; every piece is a box."""
    pieces = slice(0, FIRST_NICHE)
    offset = position[:, :, None, None] - rooms.centre_m[:, None, None, pieces]
    cosine = rooms.yaw_cos[:, None, None, pieces]
    sine = rooms.yaw_sin[:, None, None, pieces]
    half = rooms.half_m[:, None, None, pieces]
    rays = rays[:, :, :, None]
    origins = (
        cosine * offset[..., 0] + sine * offset[..., 1],
        cosine * offset[..., 1] - sine * offset[..., 0],
        offset[..., 2],
    )
    directions = (
        cosine * rays[..., 0] + sine * rays[..., 1],
        cosine * rays[..., 1] - sine * rays[..., 0],
        rays[..., 2],
    )
    near, far = np.full(1, -1e9), np.full(1, 1e9)
    for axis, (origin, direction) in enumerate(zip(origins, directions, strict=True)):
        inverse = 1.0 / np.where(np.abs(direction) < 1e-9, 1e-9, direction)
        middle, reach = -origin * inverse, half[..., axis] * np.abs(inverse)
        near, far = np.maximum(near, middle - reach), np.minimum(far, middle + reach)
    hit = (near < far) & (near > 0.0)
    depth = np.where(hit[..., 1:], near[..., 1:], 1e9).min(axis=3)
    return np.minimum(depth, far[..., 0])
