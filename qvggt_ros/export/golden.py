# Copyright 2026 qvggt_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Golden windows: images and what the float network makes of them."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from qvggt_ros.engine.self_check import to_network_input
from qvggt_ros.errors import UsageError
from qvggt_ros.vggt.model import VGGT

# Smooth noise: cells across the image, and the camera's shift from frame to frame as a share.
NOISE_CELLS = 8
FRAME_SHIFT = 0.05

Windows = NDArray[np.uint8]
GoldenArrays = dict[str, NDArray[np.generic]]


def noise_windows(count: int, frames: int, size: tuple[int, int], seed: int) -> Windows:
    """Return windows of smooth coloured noise that drifts sideways, where no images are given.

    Args:
        count: windows.
        frames: frames per window.
        size: height and width in pixels.
        seed: of the noise.

    Returns:
        [count, frames, H, W, 3] RGB.

    """
    height, width = size
    step = max(1, round(FRAME_SHIFT * width))
    random = np.random.default_rng(seed)
    windows = np.empty((count, frames, height, width, 3), np.uint8)
    for window in windows:
        cells = random.integers(0, 256, (NOISE_CELLS, 2 * NOISE_CELLS, 3), dtype=np.uint8)
        scene_width = width + step * (frames - 1)
        scene = np.asarray(
            Image.fromarray(cells).resize((scene_width, height), Image.Resampling.BICUBIC)
        )
        for index in range(frames):
            window[index] = scene[:, index * step : index * step + width]
    return windows


def check_windows(windows: Windows, frames: int, size: tuple[int, int]) -> None:
    """Refuse golden windows that are not 8-bit RGB of the bundle's size."""
    wanted = (frames, *size, 3)
    if windows.dtype != np.uint8 or windows.shape[1:] != wanted or not len(windows):
        raise UsageError(
            f'golden images: {windows.dtype} {list(windows.shape)}, must be uint8 '
            f'[n, {", ".join(map(str, wanted))}] with n >= 1'
        )


@torch.inference_mode()
def golden_arrays(model: VGGT, windows: Windows) -> GoldenArrays:
    """Return the windows and the float network's outputs, as a bundle's golden file holds them."""
    outputs: dict[str, list[NDArray[np.float32]]] = {'pose_enc': [], 'depth': [], 'depth_conf': []}
    for window in windows:
        out = model(torch.from_numpy(to_network_input(window))[None])
        outputs['pose_enc'].append(out['pose_enc'][0].numpy())
        outputs['depth'].append(out['depth'][0, ..., 0].numpy())
        outputs['depth_conf'].append(out['depth_conf'][0].numpy())
    arrays: GoldenArrays = {'images': windows}
    return arrays | {name: np.stack(values) for name, values in outputs.items()}
