# Copyright 2026 qvggt_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Procedural textures: albedo from surface coordinates, the same from every view.

Value noise on hashed lattices over several octaves of equal amplitude, which gives the 1/f
spectrum of photographs (Field 1987), plus a grid of cells. Whatever is finer than about two
pixels at a hit's distance fades out, so that one sample per pixel hardly aliases.
"""

from __future__ import annotations

from qvggt_ros.synthetic.arrays import Array, inverse, maximum, minimum, sqrt_, zeros_like
from qvggt_ros.synthetic.materials import BLOB_OCTAVES, OCTAVES

# Odd words with well mixed bits, below 2^31 because int32 scalars are signed.
_WORD_U, _WORD_V, _WORD_NEXT = 0x27D4EB2D, 0x165667B1, 0x2C1B3C6D
_OCTAVE_WORD = 0x1B873593

Fields = dict[str, Array]


def scrambled_(word: Array) -> Array:
    """Scramble int32 words in place: twice RC6's x (2 x + 1), a permutation of the words.

    The highest bits come out best. Two rounds turn a plane of lattice words into white noise
    (largest autocorrelation over 512 x 512: 0.009, what chance gives), without slow shifts.
    """
    for _ in range(2):
        word.mul_((word * 2).add_(1))
    return word


def next_(word: Array) -> Array:
    """Turn scrambled words in place into others that look independent of them."""
    word.mul_(_WORD_NEXT).add_(_WORD_U)
    return word.mul_((word * 2).add_(1))


def share(word: Array) -> Array:
    """Return words as float32 in -0.5 .. 0.5."""
    return word.float().mul_(2.0**-32)


def value_noise(u: Array, v: Array, seed: Array) -> Array:
    """Return smooth noise in -0.5 .. 0.5 with lattice spacing 1."""
    left, bottom = u.floor(), v.floor()
    fade_u, fade_v = _smooth_(u - left), _smooth_(v - bottom)
    corner = left.int().mul_(_WORD_U).add_(bottom.int().mul_(_WORD_V))
    corner += seed
    low_left = share(scrambled_(corner.clone()))
    low_right = share(scrambled_(corner + _WORD_U))
    corner += _WORD_V
    high_left = share(scrambled_(corner.clone()))
    high_right = share(scrambled_(corner.add_(_WORD_U)))
    low = low_right.sub_(low_left).mul_(fade_u).add_(low_left)
    high = high_right.sub_(high_left).mul_(fade_u).add_(high_left)
    return high.sub_(low).mul_(fade_v).add_(low)


def _smooth_(fraction: Array) -> Array:
    slope = 3.0 - 2.0 * fraction
    return fraction.mul_(fraction).mul_(slope)


def albedo(u_m: Array, v_m: Array, footprint_m: Array, seed: Array, m: Fields) -> list[Array]:
    """Return linear RGB albedo.

    Args:
        u_m: first coordinate on the surface, metres.
        v_m: second coordinate.
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
        colour *= cells.next_tint()
        colour += (m[f'joint_{letter}'] - colour) * cells.cover
        rgb.append(colour)
    return rgb


def _noise_mix(u_m: Array, v_m: Array, footprint_m: Array, seed: Array, m: Fields) -> Array:
    """Blobs of the low octaves, sharpened, plus detail of the high ones."""
    u, v = u_m * m['noise_per_m'], v_m * m['noise_per_m']
    pixels = (m['noise_per_m'] * footprint_m).clamp_(min=1e-6)
    pixels = inverse(pixels)  # lattice spacing of octave 0, in pixels
    blob = zeros_like(u)
    detail = zeros_like(u)
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
        u_m: Array,
        v_m: Array,
        footprint_m: Array,
        seed: Array,
        m: Fields,
    ):
        per_pixel = 1.0 / footprint_m
        scaled_v = v_m * m['cells_per_m_v']
        row = scaled_v.floor()
        scaled_u = u_m * m['cells_per_m_u'] + row * m['row_shift']
        column = scaled_u.floor()
        width_m, height_m = 1.0 / m['cells_per_m_u'], 1.0 / m['cells_per_m_v']
        # Cells of less than a pixel or two blur into their mean.
        visible = minimum(width_m, height_m).mul_(per_pixel).sub_(1.0).clamp_(0.0, 1.0)
        from_middle_u = (scaled_u - column).sub_(0.5)
        from_middle_v = (scaled_v - row).sub_(0.5)
        to_edge_m = minimum(
            (0.5 - from_middle_u.abs()).mul_(width_m), (0.5 - from_middle_v.abs()).mul_(height_m)
        )
        joint = (m['joint_half_m'] - to_edge_m).mul_(per_pixel).add_(0.5).clamp_(0.0, 1.0)
        # A joint thinner than a pixel darkens it by its share only.
        joint *= (2.0 * m['joint_half_m'] * per_pixel).clamp_(max=1.0)
        column, row = column.int(), row.int()
        word = column * _WORD_V + row * _WORD_U
        self._word = scrambled_(word.add_(seed))
        tone = share(self._word).mul_(m['cell_tone'])
        shift_u = share(next_(self._word)).mul_(0.3)
        across_m = (from_middle_u + shift_u).mul_(width_m)
        down_m = from_middle_v * height_m
        from_disc_m = sqrt_((across_m * across_m).add_(down_m * down_m))
        disc = (m['disc_radius_m'] - from_disc_m).mul_(per_pixel).add_(0.5).clamp_(0.0, 1.0)
        disc *= (m['disc_radius_m'] * per_pixel).clamp_(max=1.0)
        self.cover = maximum(joint, disc).mul_(visible)
        odd = ((column + row) & 1).float().sub_(0.5)
        self.tone = tone.add_(odd.mul_(m['parity'])).mul_(visible)
        self._tint = m['tint'] * visible

    def next_tint(self) -> Array:
        """Return a factor around 1 for the next colour channel."""
        return share(next_(self._word)).mul_(self._tint).add_(1.0)
