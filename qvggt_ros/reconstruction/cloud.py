# Copyright 2026 qvggt_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Coloured points, which of a depth image's pixels become points, and PLY files."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from qvggt_ros.errors import ReconstructionError
from qvggt_ros.files import whole_file

BoolArray = NDArray[np.bool_]
Float32Array = NDArray[np.float32]

_PLY_VERTEX = np.dtype(
    [
        ('x', '<f4'),
        ('y', '<f4'),
        ('z', '<f4'),
        ('red', 'u1'),
        ('green', 'u1'),
        ('blue', 'u1'),
        ('confidence', '<f4'),
    ]
)
_PLY_TYPES = {'<f4': 'float', '|u1': 'uchar'}


@dataclass(frozen=True)
class PointCloud:
    """Points in the map.

    Attributes:
        xyz: [n, 3] float32, map units.
        rgb: [n, 3] uint8.
        confidence: [n] float32, the network's, >= 1.

    """

    xyz: Float32Array
    rgb: NDArray[np.uint8]
    confidence: Float32Array

    def __len__(self) -> int:
        return len(self.xyz)

    @staticmethod
    def concatenate(clouds: list[PointCloud]) -> PointCloud:
        """Join clouds in order."""
        return PointCloud(
            np.concatenate([np.empty((0, 3), np.float32), *(c.xyz for c in clouds)]),
            np.concatenate([np.empty((0, 3), np.uint8), *(c.rgb for c in clouds)]),
            np.concatenate([np.empty(0, np.float32), *(c.confidence for c in clouds)]),
        )


def edge_mask(depth: Float32Array, ratio: float) -> BoolArray:
    """Return where a depth image [H, W] has an edge, whose points would hang in the air.

    On a plane, inverse depth is linear in the pixel coordinates however slanted the plane is. A
    pixel is an edge where inverse depth bends by more than `ratio` of itself; 0 finds none.
    """
    mask = np.zeros(depth.shape, dtype=bool)
    if ratio <= 0:
        return mask
    with np.errstate(divide='ignore', invalid='ignore'):
        inverse = 1.0 / depth
        limit = ratio * inverse
        bend_x = np.abs(inverse[:, :-2] + inverse[:, 2:] - 2 * inverse[:, 1:-1])
        bend_y = np.abs(inverse[:-2] + inverse[2:] - 2 * inverse[1:-1])
        mask[:, 1:-1] |= bend_x > limit[:, 1:-1]
        mask[1:-1] |= bend_y > limit[1:-1]
    return mask


def confidence_floor(confidence: Float32Array, drop_share: float, minimum: float) -> float:
    """Return the confidence below which points are dropped: the larger of a share and a value."""
    if drop_share <= 0:
        return minimum
    rank = min(int(drop_share * confidence.size), confidence.size - 1)
    return max(minimum, float(np.partition(confidence.ravel(), rank)[rank]))


def grid_step(width: int, height: int, frames: int, max_points: int) -> int:
    """Return the smallest pixel step at which `frames` images give at most `max_points`."""
    step = 1
    while frames * -(-width // step) * -(-height // step) > max_points:
        step += 1
    return step


def write_ply(cloud: PointCloud, path: Path) -> None:
    """Write a binary little-endian PLY file, whole or not at all.

    Raises:
        ReconstructionError: the file cannot be written.

    """
    vertices = np.empty(len(cloud), dtype=_PLY_VERTEX)
    for axis, name in enumerate(('x', 'y', 'z')):
        vertices[name] = cloud.xyz[:, axis]
    for channel, name in enumerate(('red', 'green', 'blue')):
        vertices[name] = cloud.rgb[:, channel]
    vertices['confidence'] = cloud.confidence
    properties = ''.join(
        f'property {_PLY_TYPES[_PLY_VERTEX[name].str]} {name}\n'
        for name in _PLY_VERTEX.names or ()
    )
    header = (
        f'ply\nformat binary_little_endian 1.0\nelement vertex {len(cloud)}\n'
        f'{properties}end_header\n'
    )
    try:
        with whole_file(path) as partial, partial.open('wb') as file:
            file.write(header.encode('ascii'))
            file.write(vertices.tobytes())
    except OSError as error:
        raise ReconstructionError(f'{path}: cannot be written: {error.strerror}') from error
