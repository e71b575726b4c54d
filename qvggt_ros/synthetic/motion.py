# Copyright 2026 qvggt_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""How cameras move through a room: short windows of a robot's motion, or of unordered views."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from qvggt_ros.errors import UsageError
from qvggt_ros.synthetic.candidates import Candidates
from qvggt_ros.synthetic.controls import (
    KINDS,
    ORBIT,
    RANDOM,
    SHAKE,
    draw_controls,
    uniforms_needed,
)
from qvggt_ros.synthetic.poses import look_rotation
from qvggt_ros.synthetic.raycast import Cameras
from qvggt_ros.synthetic.scene import FIRST_BOX, FIRST_NICHE, SLOTS, Rooms, piece_distance_m
from qvggt_ros.synthetic.seeds import Draws, FloatArray, IntArray

CLEARANCE_M = 0.25
_DRAWS = 256


@dataclass(frozen=True)
class MotionConfig:
    """What motion to draw.

    `weights` go with KINDS. Each window draws its own amount of motion between `least` and
    `most`: 0 is almost none, 1 leaves about a third of the first picture in the last one. Every
    amount is equally likely, unless `gentle`: then the small ones are likelier.
    """

    weights: tuple[float, ...] = (0.25, 0.15, 0.1, 0.05, 0.15, 0.15, 0.15, 0.0)
    least: float = 0.05
    most: float = 1.0
    gentle: bool = False
    tan_half_fov: tuple[float, float] = (0.4663, 1.1918)  # 50 .. 100 degrees across
    shuffled: float = 0.1  # share of windows whose frames come in random order
    backwards: float = 0.2  # share of windows that are driven in reverse
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


def draw_motion(
    seeds: Sequence[int] | IntArray,
    rooms: Rooms,
    frames: int,
    width: int,
    height: int,
    config: MotionConfig,
) -> tuple[Motion, Rooms]:
    """Draw the cameras of each scene; return them and the rooms without what is in their way."""
    draws = Draws(seeds, _DRAWS + uniforms_needed(frames), stream=2)
    kind = draws.weighted(config.weights)
    tangent = draws.uniform(*config.tan_half_fov)
    amount = _amount(draws, config)
    interval_s = draws.uniform(*config.interval_s)
    candidates = Candidates(
        draws, rooms, np.isin(kind, (SHAKE, ORBIT, RANDOM)), tangent, height / width
    )
    controls = draw_controls(draws, kind, amount, tangent, frames)
    positions, forward = candidates.best(controls)
    order = _order(draws, config, len(kind), frames)
    turn = look_rotation(forward, controls.roll)
    focal = 0.5 * width / tangent
    cameras = Cameras(
        rotation=np.take_along_axis(turn, order[:, :, None, None], axis=1),
        centre_m=np.take_along_axis(positions, order[:, :, None], axis=1),
        focal_px=np.stack([focal, focal], axis=1),
    )
    # Time goes on evenly whatever the order: a drive in reverse is a drive.
    stamps = np.arange(frames)[None, :] * interval_s[:, None]
    return Motion(cameras, kind, stamps), clear_path(rooms, positions, CLEARANCE_M)


def clear_path(rooms: Rooms, positions_m: FloatArray, clearance_m: float) -> Rooms:
    """Take out of the rooms whatever is closer than the clearance to positions [B, K, 3]."""
    removed = np.zeros((len(positions_m), SLOTS), dtype=bool)
    gap = piece_distance_m(rooms, positions_m)
    removed[:, FIRST_BOX:FIRST_NICHE] = (gap < clearance_m).any(axis=1)
    return rooms.without(removed)


def _amount(draws: Draws, config: MotionConfig) -> FloatArray:
    """Return how much each window moves, [B]."""
    if not config.gentle:
        return draws.uniform(config.least, config.most)
    share = draws.unit()
    return config.least + (config.most - config.least) * (share * np.sqrt(share))


def _order(draws: Draws, config: MotionConfig, batch: int, frames: int) -> IntArray:
    """Return which instant each frame shows, [B, S]."""
    order = np.broadcast_to(np.arange(frames), (batch, frames))
    mixed = np.argsort(draws.unit(frames), axis=1, kind='stable')
    order = np.where(draws.chance(config.backwards)[:, None], order[:, ::-1], order)
    return np.where(draws.chance(config.shuffled)[:, None], mixed, order)


__all__ = ['CLEARANCE_M', 'KINDS', 'Motion', 'MotionConfig', 'clear_path', 'draw_motion']
