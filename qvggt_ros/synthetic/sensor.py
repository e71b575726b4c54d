# Copyright 2026 qvggt_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""The camera behind the lens: softness, vignetting, exposure, white balance, tone, noise."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from qvggt_ros.synthetic.seeds import Draws, FloatArray, IntArray
from qvggt_ros.synthetic.textures import high_unit, low_unit, mixed_

_DRAWS = 64


@dataclass(frozen=True)
class Lens:
    """Sensor settings of B sequences of S frames."""

    gain: FloatArray  # [B, S, 3], exposure times white balance
    vignetting: FloatArray  # [B], share lost in the corners
    gamma: FloatArray  # [B], 0 linear .. 1 square root
    noise: FloatArray  # [B], amplitude of the noise as a share of full scale
    softness: FloatArray  # [B], share of a 3x3 binomial blur
    frame_number: IntArray  # [S], noise differs from frame to frame

    def part(self, rows: slice) -> Lens:
        """Return some sequences of the batch."""
        values = self.gain, self.vignetting, self.gamma, self.noise, self.softness
        return Lens(*(value[rows] for value in values), self.frame_number)


def draw_lens(seeds: Sequence[int] | IntArray, frames: int, first_frame: int = 0) -> Lens:
    """Draw the sensor of each scene; exposure breathes a little from frame to frame."""
    draws = Draws(seeds, _DRAWS, stream=3)
    exposure = draws.uniform(0.75, 1.6)[:, None, None]
    balance = draws.uniform(0.85, 1.15, 1, 3)
    vignetting = draws.uniform(0.0, 0.35) * draws.unit()
    gamma = draws.uniform(0.55, 1.0)
    noise = draws.uniform(0.0, 0.05) * draws.unit()
    softness = draws.uniform(0.0, 0.8) * draws.unit()
    breath = draws.uniform(0.0, 0.08)[:, None]
    phase, period = draws.unit()[:, None], draws.uniform(4.0, 40.0)[:, None]
    number = first_frame + np.arange(frames, dtype=np.int64)
    turns = phase + number[None, :] / period
    wave = 4.0 * np.abs(turns - np.floor(turns) - 0.5) - 1.0
    gain = exposure * balance * (1.0 + breath * wave)[:, :, None]
    return Lens(gain, vignetting, gamma, noise, softness, number)


def develop(light: list[torch.Tensor], lens: Lens, hash_words: np.ndarray) -> torch.Tensor:
    """Turn light ([B, S, H, W], three channels) into images uint8 [B, S, 3, H, W]."""
    batch, frames, height, width = light[0].shape
    device = light[0].device

    def per_sequence(values: FloatArray) -> torch.Tensor:
        return torch.from_numpy(values.astype(np.float32)).to(device)[:, None, None, None]

    falloff = 1.0 - _from_centre(height, width, device) * per_sequence(lens.vignetting)
    gain = torch.from_numpy(lens.gain.astype(np.float32)).to(device)
    gamma, softness = per_sequence(lens.gamma), per_sequence(lens.softness)
    amplitude = per_sequence(lens.noise)
    word = _noise_words(lens, hash_words, height, width, device)
    images = torch.empty((batch, frames, 3, height, width), dtype=torch.uint8, device=device)
    for channel, value in enumerate(light):
        value = _softened(value, softness) * falloff
        value *= gain[:, :, channel, None, None]
        value.clamp_(0.0, 1.0)
        value += (value.sqrt() - value).mul_(gamma)
        # Two uniforms make a triangle, close enough to a bell.
        noise = low_unit(word).add_(high_unit(word)).sub_(1.0)
        value += noise.mul_(amplitude)
        images[:, :, channel] = value.mul_(255.0).add_(0.5).clamp_(0.0, 255.0).to(torch.uint8)
        word = mixed_(word.add_(0x1F123BB5))
    return images


def _from_centre(height: int, width: int, device: torch.device) -> torch.Tensor:
    """Return squared distance from the image's centre, 1 in the corners, [H, W]."""
    x = (np.arange(width) + 0.5) / width * 2.0 - 1.0
    y = (np.arange(height) + 0.5) / height * 2.0 - 1.0
    square = (x * x)[None, :] + (y * y)[:, None]
    return torch.from_numpy((0.5 * square).astype(np.float32)).to(device)


def _softened(image: torch.Tensor, share: torch.Tensor) -> torch.Tensor:
    """Mix an image with its 3x3 binomial blur; borders repeat."""
    left = torch.cat([image[..., :1], image[..., :-1]], dim=-1)
    right = torch.cat([image[..., 1:], image[..., -1:]], dim=-1)
    rows = left.add_(right).mul_(0.25).add_(image * 0.5)
    above = torch.cat([rows[..., :1, :], rows[..., :-1, :]], dim=-2)
    below = torch.cat([rows[..., 1:, :], rows[..., -1:, :]], dim=-2)
    blurred = above.add_(below).mul_(0.25).add_(rows.mul_(0.5))
    return blurred.sub_(image).mul_(share).add_(image)


def _noise_words(
    lens: Lens, hash_words: np.ndarray, height: int, width: int, device: torch.device
) -> torch.Tensor:
    """Return a hashed int32 word per scene, frame and pixel, [B, S, H, W]."""
    with np.errstate(over='ignore'):
        frame = lens.frame_number.astype(np.int32) * np.int32(0x2545F491)
        start = hash_words[:, None] + frame[None, :]
    pixel = torch.arange(height * width, dtype=torch.int32, device=device).view(height, width)
    word = pixel.mul_(0x19D699A5) + torch.from_numpy(start).to(device)[:, :, None, None]
    return mixed_(mixed_(word))
