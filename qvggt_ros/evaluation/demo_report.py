# Copyright 2026 qvggt_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""The demo's picture: the map from above over the true room, the trajectory over the true one."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import matplotlib

matplotlib.use('Agg')

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from numpy.typing import NDArray

from qvggt_ros.files import whole_file

Float64Array = NDArray[np.float64]
UInt8Array = NDArray[np.uint8]

# What lies above this share of the room's height would hide the floor plan.
CEILING_SHARE = 0.8
MAX_DRAWN_POINTS = 60_000
PLY_VERTEX = np.dtype([('xyz', '<f4', 3), ('rgb', 'u1', 3), ('confidence', '<f4')])
PLY_HEADER_END = b'end_header\n'


@dataclass(frozen=True)
class DrawnCloud:
    """Points to draw: xyz [n, 3] in one common frame with z up, rgb [n, 3]."""

    xyz: Float64Array
    rgb: UInt8Array


@dataclass(frozen=True)
class Picture:
    """Everything the picture shows; the truth may be absent.

    Attributes:
        frames: a few camera images [h, w, 3].
        map: the reconstructed map.
        path: [n, 3] camera centres.
        true_map, true_path: the same of the truth, in the same frame.
        title: one line above.

    """

    frames: list[UInt8Array]
    map: DrawnCloud
    path: Float64Array
    true_map: DrawnCloud | None
    true_path: Float64Array | None
    title: str


def read_map(path: Path) -> DrawnCloud:
    """Read a PLY file as the node writes it (x y z red green blue confidence)."""
    data = path.read_bytes()
    body = data[data.index(PLY_HEADER_END) + len(PLY_HEADER_END) :]
    vertices = np.frombuffer(body, dtype=PLY_VERTEX)
    return DrawnCloud(vertices['xyz'].astype(np.float64), vertices['rgb'].copy())


def moved(cloud: DrawnCloud, similarity: Float64Array) -> DrawnCloud:
    """Apply a [4, 4] similarity."""
    return DrawnCloud(cloud.xyz @ similarity[:3, :3].T + similarity[:3, 3], cloud.rgb)


def draw(picture: Picture, path: Path) -> None:
    """Write the picture as PNG; it appears whole or not at all."""
    figure = plt.figure(figsize=(12, 7.6), layout='constrained')
    grid = figure.add_gridspec(2, max(len(picture.frames), 2), height_ratios=(1, 2.6))
    for column, frame in enumerate(picture.frames):
        axes = figure.add_subplot(grid[0, column])
        axes.imshow(frame)
        axes.set_axis_off()
    half = grid.ncols // 2
    _draw_map(figure.add_subplot(grid[1, :half]), picture)
    _draw_path(figure.add_subplot(grid[1, half:]), picture)
    figure.suptitle(picture.title)
    with whole_file(path) as file:
        figure.savefig(file, format='png', dpi=110)
    plt.close(figure)


def _draw_map(axes: Axes, picture: Picture) -> None:
    if picture.true_map is not None:
        true = _below_ceiling(picture.true_map)
        axes.scatter(true.xyz[:, 0], true.xyz[:, 1], s=2, c='0.82', linewidths=0)
    found = _below_ceiling(picture.map)
    colours = found.rgb / 255.0
    axes.scatter(found.xyz[:, 0], found.xyz[:, 1], s=1.5, c=colours, linewidths=0)
    axes.plot(*picture.path[:, :2].T, color='tab:red', linewidth=1.2)
    axes.set_title('map from above' + (' over the true room (grey)' if picture.true_map else ''))
    _finish(axes, picture)


def _draw_path(axes: Axes, picture: Picture) -> None:
    if picture.true_path is not None:
        axes.plot(*picture.true_path[:, :2].T, '--', color='black', label='true')
    axes.plot(*picture.path[:, :2].T, color='tab:red', label='estimated')
    axes.plot(*picture.path[0, :2], 'o', color='tab:red', label='start')
    axes.legend(loc='best')
    axes.set_title('trajectory from above')
    _finish(axes, picture)


def _finish(axes: Axes, picture: Picture) -> None:
    unit = 'm' if picture.true_path is not None else 'map units'
    axes.set_aspect('equal', adjustable='datalim')
    axes.set_xlabel(f'x [{unit}]')
    axes.set_ylabel(f'y [{unit}]')
    axes.grid(alpha=0.3)


def _below_ceiling(cloud: DrawnCloud) -> DrawnCloud:
    """Drop the ceiling and thin out; lowest points first, so that furniture lies on the floor."""
    if len(cloud.xyz) == 0:
        return cloud
    low, high = np.percentile(cloud.xyz[:, 2], [1, 99])
    keep = np.flatnonzero(cloud.xyz[:, 2] < low + CEILING_SHARE * (high - low))
    if len(keep) > MAX_DRAWN_POINTS:
        keep = np.random.default_rng(0).choice(keep, MAX_DRAWN_POINTS, replace=False)
    keep = keep[np.argsort(cloud.xyz[keep, 2])]
    return DrawnCloud(cloud.xyz[keep], cloud.rgb[keep])
