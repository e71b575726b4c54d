# Copyright 2026 qvggt_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""The materials of a batch of rooms: colours and patterns, as tables that the renderer gathers.

A pattern is one formula with parameters (see `textures.py`): several octaves of value noise, and
a grid of cells with joints, tones of their own, parity and discs. Tiles, planks, bricks, stripes,
checkers, mosaics, spots and plain plaster are settings of it.
"""

from __future__ import annotations

import numpy as np

from qvggt_ros.synthetic.seeds import Draws, FloatArray

OCTAVES = 5
BLOB_OCTAVES = 3

_COLOURS = tuple(f'{tone}_{letter}' for tone in ('dark', 'light', 'joint') for letter in 'rgb')
_NOISE = ('turn_cos', 'turn_sin', 'noise_per_m', 'blob', 'sharpness', 'detail')
_CELLS = ('cells_per_m_u', 'cells_per_m_v', 'row_shift', 'joint_half_m', 'cell_tone', 'parity')
MATERIAL_FIELDS = (*_COLOURS, *_NOISE, *_CELLS, 'disc_radius_m', 'tint', 'emission')

# kind: weight, cell width (m), aspect range, shift, joint half width (m), tone, parity, disc share
_KINDS = (
    ('plaster', 0.14, (0.4, 1.2), (1.0, 2.0), 0.0, (0.0, 0.0), 0.0, 0.0, 0.0),
    ('blobs', 0.16, (0.4, 1.2), (1.0, 2.0), 0.0, (0.0, 0.0), 0.0, 0.0, 0.0),
    ('tiles', 0.16, (0.12, 0.6), (1.0, 1.6), 0.0, (0.004, 0.02), 0.5, 0.0, 0.0),
    ('bricks', 0.13, (0.18, 0.5), (2.0, 4.5), 0.5, (0.004, 0.014), 0.7, 0.0, 0.0),
    ('planks', 0.12, (0.7, 1.6), (5.0, 9.0), 0.37, (0.002, 0.006), 0.8, 0.0, 0.0),
    ('checker', 0.08, (0.1, 0.5), (1.0, 1.3), 0.0, (0.0, 0.006), 0.2, 1.0, 0.0),
    ('stripes', 0.08, (90.0, 99.0), (400.0, 1100.0), 0.0, (0.0, 0.01), 0.9, 0.3, 0.0),
    ('mosaic', 0.08, (0.08, 0.3), (1.0, 2.5), 0.31, (0.0, 0.01), 1.2, 0.0, 0.0),
    ('spots', 0.05, (0.1, 0.4), (1.0, 1.3), 0.5, (0.0, 0.0), 0.2, 0.0, 1.0),
)


def build_materials(draws: Draws, count: int) -> dict[str, FloatArray]:
    """Draw the materials of a batch: every field of MATERIAL_FIELDS, [B, count]."""
    kind = draws.weighted([row[1] for row in _KINDS], count)

    def of_kind(values: list[float]) -> FloatArray:
        return np.asarray(values)[kind]

    def between(low: list[float], high: list[float]) -> FloatArray:
        least = of_kind(low)
        return least + (of_kind(high) - least) * draws.unit(count)

    width_m = between([row[2][0] for row in _KINDS], [row[2][1] for row in _KINDS])
    aspect = between([row[3][0] for row in _KINDS], [row[3][1] for row in _KINDS])
    fields = _colours(draws, count)
    fields |= _turn(draws, count)
    fields |= _noise(draws, count, blobs=kind == 1)
    tone = of_kind([row[6] for row in _KINDS])
    fields |= {
        'cells_per_m_u': 1.0 / width_m,
        'cells_per_m_v': aspect / width_m,
        'row_shift': of_kind([row[4] for row in _KINDS]),
        'joint_half_m': between([row[5][0] for row in _KINDS], [row[5][1] for row in _KINDS]),
        'cell_tone': tone * draws.uniform(0.4, 1.2, count),
        'parity': of_kind([row[7] for row in _KINDS]) * draws.uniform(0.5, 1.0, count),
        'disc_radius_m': of_kind([row[8] for row in _KINDS])
        * width_m
        * draws.uniform(0.2, 0.4, count)
        / aspect,
        'tint': np.where(tone > 0.0, draws.uniform(0.0, 0.5, count), 0.0),
        'emission': np.zeros(kind.shape),
    }
    return fields


def _colours(draws: Draws, count: int) -> dict[str, FloatArray]:
    """Two tones of one surface and the colour of its joints, discs and frames."""
    # Rooms have a palette: half of all hues lie near one of two hues of the room.
    palette = draws.uniform(0.0, 1.0, 2)
    near = np.take_along_axis(palette, draws.index(2, count), axis=1)
    hue = np.where(draws.chance(0.6, count), near, draws.uniform(0.0, 1.0, count))
    saturation = draws.unit(count) * draws.unit(count)
    value = draws.uniform(0.12, 0.95, count)
    contrast = draws.uniform(0.25, 0.95, count)
    shift = draws.uniform(-0.15, 0.15, count)
    light = _rgb(hue, saturation, value)
    dark = _rgb(hue + shift, saturation, value * (1.0 - 0.85 * contrast))
    joint_value = np.where(draws.chance(0.5, count), value * 0.3, 0.5 + 0.4 * value)
    joint = _rgb(draws.uniform(0.0, 1.0, count), draws.uniform(0.0, 0.5, count), joint_value)
    fields = {}
    for name, colour in (('dark', dark), ('light', light), ('joint', joint)):
        for channel, letter in enumerate('rgb'):
            fields[f'{name}_{letter}'] = colour[channel]
    return fields


def _rgb(hue: FloatArray, saturation: FloatArray, value: FloatArray) -> list[FloatArray]:
    """Convert hue (in turns, any real), saturation and value to linear RGB."""
    channels = []
    for offset in (0.0, 1.0 / 3.0, 2.0 / 3.0):
        turns = hue + offset
        ramp = np.abs((turns - np.floor(turns)) * 6.0 - 3.0) - 1.0
        channels.append(value * (1.0 - saturation * (1.0 - np.clip(ramp, 0.0, 1.0))))
    return channels


def _turn(draws: Draws, count: int) -> dict[str, FloatArray]:
    """Most patterns follow the edges of what they cover; some lie askew."""
    cosine, sine = draws.direction(count)
    straight = draws.chance(0.65, count)
    upright = draws.chance(0.7, count)
    return {
        'turn_cos': np.where(straight, np.where(upright, 1.0, 0.0), cosine),
        'turn_sin': np.where(straight, np.where(upright, 0.0, 1.0), sine),
    }


def _noise(draws: Draws, count: int, blobs: FloatArray) -> dict[str, FloatArray]:
    sharp = np.where(blobs, draws.uniform(2.5, 8.0, count), draws.uniform(0.8, 3.0, count))
    return {
        'noise_per_m': draws.uniform(0.8, 3.0, count),
        'blob': np.where(blobs, draws.uniform(0.7, 1.3, count), draws.uniform(0.1, 0.8, count)),
        'sharpness': sharp,
        'detail': draws.uniform(0.15, 0.9, count),
    }
