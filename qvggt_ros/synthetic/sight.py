# Copyright 2026 qvggt_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""A glance at a room from many candidate poses: a few rays each, every piece taken as a box."""

from __future__ import annotations

import numpy as np

from qvggt_ros.synthetic.poses import look_rotation
from qvggt_ros.synthetic.scene import FIRST_NICHE, Rooms
from qvggt_ros.synthetic.seeds import BoolArray, FloatArray

# Where the rays pierce the picture, as shares of its half width and half height.
_PROBES = np.array(
    [(0.0, 0.0), (-0.65, -0.4), (0.65, -0.4), (-0.65, 0.5), (0.65, 0.5), (0.0, 0.6), (0.0, -0.5)]
)
PROBES = len(_PROBES)


def glance(
    rooms: Rooms, position: FloatArray, forward: FloatArray, tangent: FloatArray, aspect: float
) -> tuple[FloatArray, BoolArray]:
    """Look from positions [B, C, 3] along unit vectors [B, C, 3].

    Args:
        rooms: B rooms.
        position: metres, world.
        forward: optical axes.
        tangent: of half the horizontal field of view, [B].
        aspect: height over width of the picture.

    Returns:
        z-depth in metres and whether a piece (not the room) is seen, both [B, C, PROBES].

    """
    basis = look_rotation(forward, np.zeros(forward.shape[:2]))
    across = tangent[:, None, None, None] * _PROBES[None, None, :, 0:1]
    down = tangent[:, None, None, None] * aspect * _PROBES[None, None, :, 1:2]
    rays = basis[:, :, None, :, 2] + across * basis[:, :, None, :, 0]
    return _first_hits(rooms, position, rays + down * basis[:, :, None, :, 1])


def _first_hits(
    rooms: Rooms, position: FloatArray, rays: FloatArray
) -> tuple[FloatArray, BoolArray]:
    """Follow rays [B, C, R, 3] from positions [B, C, 3]."""
    slots = slice(0, FIRST_NICHE)
    offset = position[:, :, None, None] - rooms.centre_m[:, None, None, slots]
    cosine = rooms.yaw_cos[:, None, None, slots]
    sine = rooms.yaw_sin[:, None, None, slots]
    half = rooms.half_m[:, None, None, slots]
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
    piece = np.where(hit[..., 1:], near[..., 1:], 1e9).min(axis=3)
    return np.minimum(piece, far[..., 0]), piece < far[..., 0]
