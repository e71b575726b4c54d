# Copyright 2026 qvggt_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""A robot's drive through a room: rounds on a closed curve, looking around as it goes."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from qvggt_ros.errors import UsageError
from qvggt_ros.synthetic.arrays import NUMPY, Device, cat, from_numpy
from qvggt_ros.synthetic.furnishing import build_rooms
from qvggt_ros.synthetic.motion import KINDS, clear_path
from qvggt_ros.synthetic.poses import climbing, look_rotation, plane_length, turned_left
from qvggt_ros.synthetic.raycast import Cameras
from qvggt_ros.synthetic.render import render_light
from qvggt_ros.synthetic.scene import Rooms, piece_distance_m
from qvggt_ros.synthetic.seeds import Draws, FloatArray, rotation
from qvggt_ros.synthetic.sensor import Lens, develop, draw_lens, meter
from qvggt_ros.synthetic.sequences import SequenceBatch, camera_from_world, intrinsics_of

_DRAWS = 512
_CURVES = 64
_POINTS = 1024
_COARSE = 64
_SPEED_M_S = 0.4
_WALL_CLEARANCE_M = 0.45
_PIECE_CLEARANCE_M = 0.4
# tan(pi / _POINTS): half the angle from one point of the curve to the next.
_HALF_STEP = 0.0030679711961427247
# Of the exposure: the share by which it follows each new frame.
_METER_SIZE = (40, 30)
_METER_HASTE = 0.1
_FRAMES_AT_ONCE = 2


@dataclass(frozen=True)
class Drive:
    """A planned drive: one room, the cameras of all frames, and their stamps."""

    rooms: Rooms
    cameras: Cameras
    lens: Lens
    brightness: FloatArray  # [1, S], what each frame is exposed for
    stamp_s: FloatArray  # [1, S]
    width: int
    height: int


def plan_drive(
    seed: int,
    frames: int,
    width: int,
    height: int,
    rate_hz: float = 10.0,
    tan_half_fov: float = 0.8,
) -> Drive:
    """Plan a drive of a camera with the given frames per second through the room of a seed.

    Raises:
        UsageError: a number that is not positive.

    """
    if min(frames, width, height) < 1 or rate_hz <= 0.0 or tan_half_fov <= 0.0:
        raise UsageError(
            f'{frames} frames of {width}x{height} pixels at {rate_hz} Hz: all must be positive'
        )
    draws = Draws([seed], _DRAWS, stream=4)
    rooms = build_rooms([seed])
    plane = _best_curve(draws, rooms)
    seconds = np.arange(frames) / rate_hz
    place, heading = _follow(plane, seconds)
    positions, forward, roll = _look_around(draws, place, heading, seconds)
    rooms = clear_path(rooms, positions[None], _PIECE_CLEARANCE_M)
    focal = np.full((1, 2), 0.5 * width / tan_half_fov)
    cameras = Cameras(look_rotation(forward, roll)[None], positions[None], focal)
    brightness = _metered(rooms, cameras, width)
    lens = draw_lens([seed], frames)
    return Drive(rooms, cameras, lens, brightness, seconds[None], width, height)


def render_drive(
    drive: Drive, device: Device = 'cpu', samples: int = 2
) -> Iterator[SequenceBatch]:
    """Render a drive, a few frames [1, s] at a time, on a device as `render_batch` takes it."""
    total = drive.stamp_s.shape[1]
    for start in range(0, total, _FRAMES_AT_ONCE):
        part = slice(start, start + _FRAMES_AT_ONCE)
        cameras = drive.cameras.frames(part)
        light, depth = render_light(
            drive.rooms, cameras, drive.width, drive.height, device, samples
        )
        brightness = from_numpy(drive.brightness[:, part].astype(np.float32), device)
        images = develop(light, drive.lens.frames(part), drive.rooms.hash_words, brightness)
        yield SequenceBatch(
            images=images,
            depth_m=depth,
            camera_from_world=from_numpy(camera_from_world(cameras), device),
            intrinsics=from_numpy(intrinsics_of(cameras, drive.width, drive.height), device),
            stamp_s=from_numpy(drive.stamp_s[:, part], device),
            motion_kind=from_numpy(np.full(1, KINDS.index('forward'), dtype=np.int64), device),
        )


def render_trajectory(
    seed: int,
    frames: int,
    width: int,
    height: int,
    rate_hz: float = 10.0,
    device: Device = 'cpu',
    samples: int = 2,
) -> SequenceBatch:
    """Render a whole drive at once, [1, frames]; see `plan_drive` and `render_drive`."""
    parts = list(render_drive(plan_drive(seed, frames, width, height, rate_hz), device, samples))
    names = ('images', 'depth_m', 'camera_from_world', 'intrinsics', 'stamp_s')
    joined = {name: cat([getattr(part, name) for part in parts], axis=1) for name in names}
    return SequenceBatch(**joined, motion_kind=parts[0].motion_kind)


def _best_curve(draws: Draws, rooms: Rooms) -> FloatArray:
    """Return the longest closed curve [_POINTS, 2] that keeps clear of the furniture."""
    circle = _unit_circle()
    x, y = circle[:, 0], circle[:, 1]
    wobble = draws.uniform(-0.15, 0.15, _CURVES, 2)[0]
    # 1 + a cos 2t + b sin 3t
    twice, thrice = x * x - y * y, y * (3.0 * x * x - y * y)
    radius = 1.0 + wobble[:, :1] * twice[None] + wobble[:, 1:] * thrice[None]
    reach = rooms.half_m[0, 0, :2] - _WALL_CLEARANCE_M
    extent = draws.uniform(0.3, 0.95, _CURVES, 2)[0] * reach / 1.3
    middle = draws.uniform(-1.0, 1.0, _CURVES, 2)[0] * (reach - 1.3 * extent)
    clockwise = np.where(draws.chance(0.5), -1.0, 1.0)
    curves = np.stack([radius * x[None], radius * (clockwise * y)[None]], axis=-1)
    curves = middle[:, None] + extent[:, None] * curves
    coarse = curves[:, :: _POINTS // _COARSE].reshape(1, -1, 2)
    height = np.full((*coarse.shape[:2], 1), 0.7)
    gap = piece_distance_m(rooms, np.concatenate([coarse, height], axis=2))[0].min(axis=1)
    clear = np.clip(gap.reshape(_CURVES, -1).min(axis=1) / (1.2 * _PIECE_CLEARANCE_M), 0.0, 1.0)
    length = _lengths(curves)[:, -1]
    return curves[(4.0 * clear + np.minimum(length, 14.0)).argmax()]


def _unit_circle() -> FloatArray:
    cosine, sine = rotation(np.array(_HALF_STEP))
    points = np.empty((_POINTS, 2))
    x, y = np.float64(1.0), np.float64(0.0)
    for index in range(_POINTS):
        points[index] = x, y
        x, y = cosine * x - sine * y, sine * x + cosine * y
    return points


def _lengths(curves: FloatArray) -> FloatArray:
    """Return the length from the first point to each next one and around, [..., points + 1]."""
    steps = plane_length(np.roll(curves, -1, axis=-2) - curves)
    # accumulate adds one after the other, so its rounding is the same everywhere.
    total = np.add.accumulate(steps, axis=-1)
    return np.concatenate([np.zeros_like(total[..., :1]), total], axis=-1)


def _follow(curve: FloatArray, seconds: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Return positions and unit headings [S, 2] at an even speed; whole rounds if time allows."""
    lengths = _lengths(curve)
    duration = seconds[-1] + (seconds[1] if len(seconds) > 1 else 1.0)
    rounds = np.floor(_SPEED_M_S * duration / lengths[-1] + 0.5)
    speed = rounds * lengths[-1] / duration if rounds >= 1.0 else _SPEED_M_S
    distance = speed * seconds
    distance = distance - lengths[-1] * np.floor(distance / lengths[-1])
    before = np.clip(np.searchsorted(lengths, distance, side='right') - 1, 0, _POINTS - 1)
    share = (distance - lengths[before]) / (lengths[before + 1] - lengths[before])
    ahead = np.roll(curve, -8, axis=0) - np.roll(curve, 8, axis=0)
    after = (before + 1) % _POINTS
    share = share[:, None]
    place = curve[before] + share * (curve[after] - curve[before])
    heading = ahead[before] + share * (ahead[after] - ahead[before])
    return place, heading / plane_length(heading)[:, None]


def _look_around(
    draws: Draws, place: FloatArray, heading: FloatArray, seconds: FloatArray
) -> tuple[FloatArray, FloatArray, FloatArray]:
    """Return positions, forward directions [S, 3] and roll [S] of a camera on a slow pan head."""
    frames = len(seconds)
    # Left turns look left: inwards there is more to see than at the wall.
    onwards = heading[-1] if frames < 2 else heading[1]
    side = heading[0, 0] * onwards[1] - heading[0, 1] * onwards[0]
    inwards = np.where(side < 0.0, -1.0, 1.0) * draws.uniform(0.15, 0.3)
    swing = draws.uniform(0.1, 0.25) * _wave(seconds / draws.uniform(9.0, 14.0) + draws.unit())
    turned = turned_left(heading, inwards + swing)
    height = draws.uniform(0.8, 1.3) + 0.004 * _wave(seconds / 0.73)
    nod = draws.uniform(-0.2, -0.08) + 0.04 * _wave(seconds / draws.uniform(5.0, 8.0))
    roll = 0.006 * _wave(seconds / 1.9 + draws.unit())
    positions = np.concatenate([place, height[:, None]], axis=1)
    return positions, climbing(turned, nod), roll


def _wave(turns: FloatArray) -> FloatArray:
    """Return a smooth wave between -1 and 1 with period 1."""
    triangle = 4.0 * np.abs(turns - np.floor(turns) - 0.5) - 1.0
    return triangle * (1.5 - 0.5 * triangle * triangle)


def _metered(rooms: Rooms, cameras: Cameras, width: int) -> FloatArray:
    """Return what an unhurried exposure control exposes each frame for, [1, S]."""
    small = Cameras(
        cameras.rotation, cameras.centre_m, cameras.focal_px * (_METER_SIZE[0] / width)
    )
    light, _ = render_light(rooms, small, *_METER_SIZE, NUMPY)
    metered = np.asarray(meter(light)[0], dtype=np.float64)
    exposed = np.empty_like(metered)
    level = metered[0]
    for index, value in enumerate(metered):
        level = level + _METER_HASTE * (value - level)
        exposed[index] = level
    return exposed[None]
