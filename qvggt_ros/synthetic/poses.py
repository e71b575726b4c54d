# Copyright 2026 qvggt_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Directions and camera rotations from exactly rounded operations (no sine, no matrix product)."""

from __future__ import annotations

import numpy as np

from qvggt_ros.synthetic.seeds import FloatArray, rotation


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


def climbing(heading: FloatArray, slope: FloatArray) -> FloatArray:
    """Return unit vectors [..., 3] that climb with a slope (rise over run) along unit headings."""
    length = np.sqrt(1.0 + slope * slope)[..., None]
    return np.concatenate([heading / length, slope[..., None] / length], axis=-1)


def turned_left(heading: FloatArray, half_tangent: FloatArray) -> FloatArray:
    """Turn headings [..., 2] by the angles whose halves have the given tangents [...]."""
    cosine, sine = rotation(half_tangent)
    x, y = heading[..., 0], heading[..., 1]
    turned = np.stack([cosine * x - sine * y, sine * x + cosine * y], axis=-1)
    return turned / plane_length(turned)[..., None]


def plane_length(vector: FloatArray) -> FloatArray:
    """Return lengths [...] of vectors [..., 2]."""
    return np.sqrt(vector[..., 0] * vector[..., 0] + vector[..., 1] * vector[..., 1])
