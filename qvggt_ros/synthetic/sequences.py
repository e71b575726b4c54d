# Copyright 2026 qvggt_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Rendered sequences: windows for training and tests, and long drives for recordings."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from qvggt_ros.errors import UsageError
from qvggt_ros.synthetic.arrays import Array, Device, cat, from_numpy, is_cpu
from qvggt_ros.synthetic.furnishing import build_rooms
from qvggt_ros.synthetic.motion import MotionConfig, draw_motion
from qvggt_ros.synthetic.raycast import Cameras
from qvggt_ros.synthetic.render import render_light
from qvggt_ros.synthetic.scene import Rooms
from qvggt_ros.synthetic.seeds import FloatArray, IntArray
from qvggt_ros.synthetic.sensor import Lens, develop, draw_lens

# Pixels rendered at once: temporaries fit a CPU's cache, and fill a GPU.
_CPU_PIXELS = 160_000
_GPU_PIXELS = 8_000_000


@dataclass(frozen=True)
class SequenceBatch:
    """B sequences of S frames with their truth, as tensors or NumPy arrays.

    Pixel (u, v), counted from 0, shows the point depth * ((u - cx) / fx, (v - cy) / fy, 1) in the
    camera frame (OpenCV: x right, y down, z forward); cx = W / 2, cy = H / 2.
    """

    images: Array  # uint8 [B, S, 3, H, W]
    depth_m: Array  # float32 [B, S, H, W], z-depth
    camera_from_world: Array  # float32 [B, S, 4, 4]; world is metric, z up
    intrinsics: Array  # float32 [B, S, 3, 3], pixels
    stamp_s: Array  # float64 [B, S], from each sequence's beginning
    motion_kind: Array  # int64 [B], index into motion.KINDS


def render_batch(
    seeds: Sequence[int] | IntArray,
    frames: int,
    width: int,
    height: int,
    device: Device = 'cpu',
    motion: MotionConfig | None = None,
    samples: int = 1,
) -> SequenceBatch:
    """Render one short sequence per seed; a sequence's bytes do not depend on its batch.

    Args:
        seeds: the scenes; see `seeds.training_seeds` for those to train on.
        frames: frames per sequence.
        width: pixels.
        height: pixels.
        device: where to render and leave the result: a device of PyTorch's, or 'numpy', which
            gives the same bytes as NumPy arrays and does without PyTorch.
        motion: how the cameras move.
        samples: samples per pixel along each axis; 1 is for training, 2 looks smooth.

    Raises:
        UsageError: no frames, or a size that is not positive.

    """
    if min(frames, width, height, samples, len(seeds)) < 1:
        raise UsageError(
            f'{len(seeds)} sequences of {frames} frames of {width}x{height} pixels, '
            f'{samples} samples each: every number must be positive'
        )
    seeds = np.asarray(seeds, dtype=np.int64)
    rooms = build_rooms(seeds)
    drawn, rooms = draw_motion(seeds, rooms, frames, width, height, motion or MotionConfig())
    lens = draw_lens(seeds, frames)
    images, depth = _render_in_parts(rooms, drawn.cameras, lens, (width, height), device, samples)
    return SequenceBatch(
        images=images,
        depth_m=depth,
        camera_from_world=from_numpy(camera_from_world(drawn.cameras), device),
        intrinsics=from_numpy(intrinsics_of(drawn.cameras, width, height), device),
        stamp_s=from_numpy(drawn.stamp_s, device),
        motion_kind=from_numpy(drawn.kind, device),
    )


def _render_in_parts(
    rooms: Rooms,
    cameras: Cameras,
    lens: Lens,
    size: tuple[int, int],
    device: Device,
    samples: int,
) -> tuple[Array, Array]:
    width, height = size
    batch, frames = cameras.centre_m.shape[:2]
    limit = _CPU_PIXELS if is_cpu(device) else _GPU_PIXELS
    at_once = max(limit // (frames * width * height), 1)
    images, depths = [], []
    for start in range(0, batch, at_once):
        part = slice(start, start + at_once)
        some = rooms.part(part)
        light, depth = render_light(some, cameras.part(part), width, height, device, samples)
        images.append(develop(light, lens.part(part), some.hash_words))
        depths.append(depth)
    return cat(images), cat(depths)


def camera_from_world(cameras: Cameras) -> npt.NDArray[np.float32]:
    """Return rigid transforms, float32 [B, S, 4, 4]."""
    turn, centre = cameras.rotation, cameras.centre_m
    matrix = np.zeros((*centre.shape[:2], 4, 4))
    matrix[..., 3, 3] = 1.0
    for row in range(3):
        axis = turn[..., :, row]
        matrix[..., row, :3] = axis
        product = axis * centre
        matrix[..., row, 3] = -(product[..., 0] + product[..., 1] + product[..., 2])
    return matrix.astype(np.float32)


def intrinsics_of(cameras: Cameras, width: int, height: int) -> npt.NDArray[np.float32]:
    """Return camera matrices in pixels, float32 [B, S, 3, 3]."""
    batch, frames = cameras.centre_m.shape[:2]
    matrix = np.zeros((batch, frames, 3, 3))
    focal: FloatArray = cameras.focal_px[:, None]
    matrix[..., 0, 0], matrix[..., 1, 1] = focal[..., 0], focal[..., 1]
    matrix[..., 0, 2], matrix[..., 1, 2], matrix[..., 2, 2] = 0.5 * width, 0.5 * height, 1.0
    return matrix.astype(np.float32)
