# Copyright 2026 qvggt_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""The camera behind the lens: softness, vignetting, exposure, white balance, tone, noise."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace

import numpy as np

from qvggt_ros.synthetic.arrays import Array, Device, cat, empty_bytes, from_numpy, quiet, sqrt
from qvggt_ros.synthetic.seeds import Draws, FloatArray, IntArray
from qvggt_ros.synthetic.textures import next_, scrambled_, share

_DRAWS = 64
_METER_STEPS = 1024.0
_BRIGHTEST = 4.0
_DARKEST = 0.02


@dataclass(frozen=True)
class Lens:
    """Sensor settings of B sequences of S frames."""

    target: FloatArray  # [B, S, 3], brightness aimed at, times white balance
    haste: FloatArray  # [B], how far exposure follows the frame and not the sequence, 0 .. 1
    vignetting: FloatArray  # [B], share lost in the corners
    gamma: FloatArray  # [B], 0 linear .. 1 square root
    noise: FloatArray  # [B], amplitude of the noise as a share of full scale
    softness: FloatArray  # [B], share of a 3x3 binomial blur
    frame_number: IntArray  # [S], noise differs from frame to frame

    def part(self, rows: slice) -> Lens:
        """Return some sequences of the batch."""
        values = {f.name: getattr(self, f.name)[rows] for f in fields(self)}
        return Lens(**values | {'frame_number': self.frame_number})

    def frames(self, chosen: slice) -> Lens:
        """Return some frames of the sequences."""
        number = self.frame_number[chosen]
        return replace(self, target=self.target[:, chosen], frame_number=number)


def draw_lens(seeds: Sequence[int] | IntArray, frames: int) -> Lens:
    """Draw the sensor of each scene; the brightness aimed at breathes from frame to frame."""
    draws = Draws(seeds, _DRAWS, stream=3)
    key = draws.uniform(0.16, 0.4)[:, None, None]
    balance = draws.uniform(0.88, 1.12, 1, 3)
    haste = draws.uniform(0.0, 0.6)
    vignetting = draws.uniform(0.0, 0.35) * draws.unit()
    gamma = draws.uniform(0.55, 1.0)
    noise = draws.uniform(0.0, 0.04) * draws.unit()
    softness = draws.uniform(0.0, 0.8) * draws.unit()
    breath = draws.uniform(0.0, 0.08)[:, None]
    phase, period = draws.unit()[:, None], draws.uniform(4.0, 40.0)[:, None]
    number = np.arange(frames, dtype=np.int64)
    turns = phase + number[None, :] / period
    wave = 4.0 * np.abs(turns - np.floor(turns) - 0.5) - 1.0
    target = key * balance * (1.0 + breath * wave)[:, :, None]
    return Lens(target, haste, vignetting, gamma, noise, softness, number)


def meter(light: list[Array]) -> Array:
    """Return the mean brightness of each frame, float32 [B, S].

    Summed as integers: their sum does not depend on its order.
    """
    steps = light[1].clamp(max=_BRIGHTEST).mul_(_METER_STEPS).int()
    total = steps.sum((2, 3)).float()
    return total * (1.0 / (_METER_STEPS * steps.shape[2] * steps.shape[3]))


@quiet
def develop(
    light: list[Array],
    lens: Lens,
    hash_words: np.ndarray,
    brightness: Array | None = None,
) -> Array:
    """Turn light ([B, S, H, W], three channels) into images uint8 [B, S, 3, H, W].

    Args:
        light: linear, any scale.
        lens: the sensor's settings.
        hash_words: int32 [B], seeds of the noise.
        brightness: what to expose each frame for, [B, S]; None meters these frames.

    """
    batch, frames, height, width = light[0].shape
    device = light[0].device

    def per_sequence(values: FloatArray) -> Array:
        return from_numpy(values.astype(np.float32), device)[:, None, None, None]

    if brightness is None:
        brightness = _followed(meter(light), per_sequence(lens.haste)[:, 0, 0])
    falloff = 1.0 - _from_centre(height, width, device) * per_sequence(lens.vignetting)
    gain = from_numpy(lens.target.astype(np.float32), device)
    gain = gain / (brightness + _DARKEST)[:, :, None]
    gamma, softness = per_sequence(lens.gamma), per_sequence(lens.softness)
    amplitude = per_sequence(lens.noise)
    word = _noise_words(lens, hash_words, height, width, device)
    grain = share(word)
    images = empty_bytes((batch, frames, 3, height, width), device)
    for channel, value in enumerate(light):
        value = _softened(value, softness) * falloff
        value *= gain[:, :, channel, None, None]
        value.clamp_(0.0, 1.0)
        value += sqrt(value).sub_(value).mul_(gamma)
        # Two uniforms make a triangle, close enough to a bell; neighbouring channels share one,
        # as they do after demosaicing.
        grain, last = share(next_(word)), grain
        value += (grain + last).mul_(amplitude)
        images[:, :, channel] = value.mul_(255.0).add_(0.5).clamp_(0.0, 255.0)
    return images


def _followed(metered: Array, haste: Array) -> Array:
    """Mix each frame's brightness with its sequence's, [B, S]."""
    total = metered[:, :1].clone()
    for frame in range(1, metered.shape[1]):
        total += metered[:, frame : frame + 1]
    mean = total * (1.0 / metered.shape[1])
    return mean + (metered - mean) * haste


def _from_centre(height: int, width: int, device: Device) -> Array:
    """Return squared distance from the image's centre, 1 in the corners, [H, W]."""
    x = (np.arange(width) + 0.5) / width * 2.0 - 1.0
    y = (np.arange(height) + 0.5) / height * 2.0 - 1.0
    square = (x * x)[None, :] + (y * y)[:, None]
    return from_numpy((0.5 * square).astype(np.float32), device)


def _softened(image: Array, softness: Array) -> Array:
    """Mix an image with its 3x3 binomial blur; borders repeat."""
    left = cat([image[..., :1], image[..., :-1]], axis=-1)
    right = cat([image[..., 1:], image[..., -1:]], axis=-1)
    rows = left.add_(right).mul_(0.25).add_(image * 0.5)
    above = cat([rows[..., :1, :], rows[..., :-1, :]], axis=-2)
    below = cat([rows[..., 1:, :], rows[..., -1:, :]], axis=-2)
    blurred = above.add_(below).mul_(0.25).add_(rows.mul_(0.5))
    return blurred.sub_(image).mul_(softness).add_(image)


def _noise_words(
    lens: Lens, hash_words: np.ndarray, height: int, width: int, device: Device
) -> Array:
    """Return a hashed int32 word per scene, frame and pixel, [B, S, H, W]."""
    with np.errstate(over='ignore'):
        frame = lens.frame_number.astype(np.int32) * np.int32(0x2545F491)
        start = hash_words[:, None] + frame[None, :]
    pixel = from_numpy(np.arange(height * width, dtype=np.int32).reshape(height, width), device)
    word = pixel.mul_(0x19D699A5) + from_numpy(start, device)[:, :, None, None]
    return scrambled_(word)
