# Copyright 2026 qvggt_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Procedural textures: albedo from surface coordinates, the same from every view.

Value noise on hashed lattices over several octaves of equal amplitude, which gives the 1/f
spectrum of photographs (Field 1987), plus a grid of cells. Whatever is finer than about two
pixels at a hit's distance fades out, so that one sample per pixel hardly aliases.
"""

from __future__ import annotations

import torch

from qvggt_ros.synthetic.materials import BLOB_OCTAVES, OCTAVES

# Odd words with well mixed bits, below 2^31 because torch takes int32 scalars as signed.
_WORD_U, _WORD_V, _WORD_A, _WORD_B = 0x27D4EB2D, 0x165667B1, 0x2C1B3C6D, 0x297A2D39
_OCTAVE_WORD = 0x1B873593
_TO_UNIT = 2.0**-16

Fields = dict[str, torch.Tensor]


def mixed_(word: torch.Tensor) -> torch.Tensor:
    """Mix the bits of int32 words in place (two xor-multiply rounds)."""
    word ^= word >> 15
    word *= _WORD_A
    word ^= word >> 12
    word *= _WORD_B
    word ^= word >> 15
    return word


def low_unit(word: torch.Tensor) -> torch.Tensor:
    """Return the low 16 bits as float32 in [0, 1)."""
    return (word & 0xFFFF).to(torch.float32).mul_(_TO_UNIT)


def high_unit(word: torch.Tensor) -> torch.Tensor:
    """Return the high 16 bits as float32 in [0, 1)."""
    return ((word >> 16) & 0xFFFF).to(torch.float32).mul_(_TO_UNIT)


def value_noise(u: torch.Tensor, v: torch.Tensor, seed: torch.Tensor) -> torch.Tensor:
    """Return smooth noise in -0.5 .. 0.5 with lattice spacing 1."""
    left, bottom = u.floor(), v.floor()
    fade_u, fade_v = _smooth_(u - left), _smooth_(v - bottom)
    corner = left.to(torch.int32).mul_(_WORD_U).add_(bottom.to(torch.int32).mul_(_WORD_V))
    corner += seed
    low_left = low_unit(mixed_(corner.clone()))
    low_right = low_unit(mixed_(corner + _WORD_U))
    corner += _WORD_V
    high_left = low_unit(mixed_(corner.clone()))
    high_right = low_unit(mixed_(corner.add_(_WORD_U)))
    low = low_right.sub_(low_left).mul_(fade_u).add_(low_left)
    high = high_right.sub_(high_left).mul_(fade_u).add_(high_left)
    return high.sub_(low).mul_(fade_v).add_(low).sub_(0.5)


def _smooth_(fraction: torch.Tensor) -> torch.Tensor:
    slope = 3.0 - 2.0 * fraction
    return fraction.mul_(fraction).mul_(slope)


def albedo(
    u_m: torch.Tensor, v_m: torch.Tensor, footprint_m: torch.Tensor, seed: torch.Tensor, m: Fields
) -> list[torch.Tensor]:
    """Return linear RGB albedo.

    Args:
        u_m, v_m: coordinates on the surface, metres.
        footprint_m: size of a pixel on the surface, metres.
        seed: int32 word per face.
        m: the material's parameters (MATERIAL_FIELDS) per pixel.

    """
    turned_u = m['turn_cos'] * u_m + m['turn_sin'] * v_m
    turned_v = m['turn_cos'] * v_m - m['turn_sin'] * u_m
    mix = _noise_mix(turned_u, turned_v, footprint_m, seed, m)
    cells = _Cells(turned_u, turned_v, footprint_m, seed, m)
    mix += cells.tone
    mix.add_(0.5).clamp_(0.0, 1.0)
    rgb = []
    for letter in 'rgb':
        colour = (m[f'light_{letter}'] - m[f'dark_{letter}']).mul_(mix).add_(m[f'dark_{letter}'])
        colour *= cells.tint(letter)
        colour += (m[f'joint_{letter}'] - colour) * cells.cover
        rgb.append(colour)
    return rgb


def _noise_mix(
    u_m: torch.Tensor, v_m: torch.Tensor, footprint_m: torch.Tensor, seed: torch.Tensor, m: Fields
) -> torch.Tensor:
    """Blobs of the low octaves, sharpened, plus detail of the high ones."""
    u, v = u_m * m['noise_per_m'], v_m * m['noise_per_m']
    pixels = (m['noise_per_m'] * footprint_m).clamp_(min=1e-6)
    pixels = torch.ones_like(pixels).div_(pixels)  # lattice spacing of octave 0, in pixels
    blob = torch.zeros_like(u)
    detail = torch.zeros_like(u)
    for octave in range(OCTAVES):
        # Full above 2 pixels a lattice cell, gone below 1.
        weight = (pixels * 0.5**octave).sub_(1.0).clamp_(0.0, 1.0)
        noise = value_noise(u, v, seed + octave * _OCTAVE_WORD).mul_(weight)
        if octave < BLOB_OCTAVES:
            blob += noise
        else:
            detail += noise
        # Turned by the 3-4-5 triangle, so that the lattices of the octaves do not line up.
        u, v = (1.6 * u).add_(1.2 * v), (1.6 * v).sub_(1.2 * u)
    blob.mul_(m['sharpness']).clamp_(-0.5, 0.5).mul_(m['blob'])
    return blob.add_(detail.mul_(m['detail']))


class _Cells:
    """The grid of cells: what it adds to the tone, tints, and covers with the joint's colour."""

    def __init__(
        self,
        u_m: torch.Tensor,
        v_m: torch.Tensor,
        footprint_m: torch.Tensor,
        seed: torch.Tensor,
        m: Fields,
    ):
        per_pixel = 1.0 / footprint_m
        scaled_v = v_m * m['cells_per_m_v']
        row = scaled_v.floor()
        scaled_u = u_m * m['cells_per_m_u'] + row * m['row_shift']
        column = scaled_u.floor()
        width_m, height_m = 1.0 / m['cells_per_m_u'], 1.0 / m['cells_per_m_v']
        # Cells of less than a pixel or two blur into their mean.
        visible = torch.minimum(width_m, height_m).mul_(per_pixel).sub_(1.0).clamp_(0.0, 1.0)
        from_middle_u = (scaled_u - column).sub_(0.5)
        from_middle_v = (scaled_v - row).sub_(0.5)
        to_edge_m = torch.minimum(
            (0.5 - from_middle_u.abs()).mul_(width_m), (0.5 - from_middle_v.abs()).mul_(height_m)
        )
        joint = (m['joint_half_m'] - to_edge_m).mul_(per_pixel).add_(0.5).clamp_(0.0, 1.0)
        # A joint thinner than a pixel darkens it by its share only.
        joint *= (2.0 * m['joint_half_m'] * per_pixel).clamp_(max=1.0)
        column, row = column.to(torch.int32), row.to(torch.int32)
        word = column * _WORD_V + row * _WORD_U
        self._word = mixed_(word.add_(seed))
        shift_u = low_unit(self._word).sub_(0.5).mul_(0.3)
        across_m = (from_middle_u + shift_u).mul_(width_m)
        down_m = from_middle_v * height_m
        from_disc_m = (across_m * across_m).add_(down_m * down_m).sqrt_()
        disc = (m['disc_radius_m'] - from_disc_m).mul_(per_pixel).add_(0.5).clamp_(0.0, 1.0)
        disc *= (m['disc_radius_m'] * per_pixel).clamp_(max=1.0)
        self.cover = torch.maximum(joint, disc).mul_(visible)
        odd = ((column + row) & 1).to(torch.float32).sub_(0.5)
        tone = high_unit(self._word).sub_(0.5).mul_(m['cell_tone'])
        self.tone = tone.add_(odd.mul_(m['parity'])).mul_(visible)
        self._tint = m['tint'] * visible

    def tint(self, letter: str) -> torch.Tensor:
        """Return a factor around 1 for one colour channel."""
        shift = {'r': 3, 'g': 9, 'b': 21}[letter]
        share = ((self._word >> shift) & 0x3FF).to(torch.float32).mul_(2.0**-10).sub_(0.5)
        return share.mul_(self._tint).add_(1.0)
