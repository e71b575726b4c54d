# Copyright 2026 qvggt_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""An engine that knows the answer: cameras on a path in a box-shaped room.

A frame's number is written in its colour, so that the oracle recognises it after any resize. Like
the network, each window has a scale of its own and its first camera as the world.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from qvggt_ros.engine.interface import WindowOutput
from qvggt_ros.reconstruction.geometry import (
    invert_pose,
    pose_matrix,
    quaternion_from_rotation,
    rotation_from_quaternion,
)

ROOM_HALF_SIZE_M = np.array([2.5, 1.3, 3.0])
FOV_W_RAD = 1.2


def image_of_frame(index: int, width: int = 112, height: int = 84) -> NDArray[np.uint8]:
    """Return an RGB image of one colour that says which frame it is."""
    return np.full((height, width, 3), (index % 250, index // 250, 128), dtype=np.uint8)


def world_from_camera(index: int) -> NDArray[np.float64]:
    """Return the true pose [4, 4] of a frame, metres: a wavy path with a slow turn."""
    yaw, pitch = 0.06 * index, 0.05 * np.sin(0.4 * index)
    about_y = rotation_from_quaternion([0, np.sin(yaw / 2), 0, np.cos(yaw / 2)])
    about_x = rotation_from_quaternion([np.sin(pitch / 2), 0, 0, np.cos(pitch / 2)])
    centre = [1.2 * np.sin(0.08 * index), 0.2 * np.sin(0.3 * index), 1.5 * np.cos(0.05 * index)]
    return pose_matrix(about_y @ about_x, centre)


@dataclass(frozen=True)
class OracleManifest:
    window_frames: int = 4
    image_width: int = 112
    image_height: int = 84
    patch_size: int = 14
    name: str = 'oracle'


class OracleEngine:
    """Answers with the truth, each window in its own scale, with noise on depth if asked."""

    def __init__(
        self,
        manifest: OracleManifest | None = None,
        depth_noise: float = 0.0,
        scales: Sequence[float] = (1.0, 0.5, 2.0, 1.3),
        seed: int = 0,
    ) -> None:
        self.manifest: Any = manifest or OracleManifest()
        self.encoded = 0
        self.decoded_depths = 0
        self.windows = 0
        self._scales = scales
        self._depth_noise = depth_noise
        self._rng = np.random.default_rng(seed)

    @property
    def fov_h_rad(self) -> float:
        """Vertical field of view for square pixels."""
        aspect = self.manifest.image_height / self.manifest.image_width
        return float(2 * np.arctan(np.tan(FOV_W_RAD / 2) * aspect))

    def encode(self, images: NDArray[np.float32]) -> list[Any]:
        expected = (3, self.manifest.image_height, self.manifest.image_width)
        assert images.shape[1:] == expected and images.dtype == np.float32
        self.encoded += len(images)
        colours = np.rint(images[:, :, expected[1] // 2, expected[2] // 2] * 255).astype(int)
        return [int(colour[0] + 250 * colour[1]) for colour in colours]

    def window(self, tokens: Sequence[Any]) -> WindowOutput:
        scale = self._scales[self.windows % len(self._scales)]
        self.windows += 1
        first = world_from_camera(tokens[0])
        pose_enc = np.empty((len(tokens), 9), dtype=np.float32)
        for row, index in zip(pose_enc, tokens, strict=True):
            camera_from_first = invert_pose(world_from_camera(index)) @ first
            row[:3] = scale * camera_from_first[:3, 3]
            row[3:7] = quaternion_from_rotation(camera_from_first[:3, :3])
            row[7:] = self.fov_h_rad, FOV_W_RAD
        return WindowOutput(pose_enc, (list(tokens), scale))

    def depth(
        self, window: WindowOutput, frames: Sequence[int]
    ) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        tokens, scale = window.taps
        self.decoded_depths += len(frames)
        depth = np.stack([scale * self._true_depth(tokens[i]) for i in frames])
        depth *= np.exp(self._rng.normal(0, self._depth_noise, depth.shape))
        return depth.astype(np.float32), np.full(depth.shape, 2, dtype=np.float32)

    def _true_depth(self, index: int) -> NDArray[np.float64]:
        width, height = self.manifest.image_width, self.manifest.image_height
        focal = (width / 2) / np.tan(FOV_W_RAD / 2)
        v, u = np.mgrid[:height, :width]
        rays = np.stack([(u - width / 2) / focal, (v - height / 2) / focal, np.ones(u.shape)], -1)
        pose = world_from_camera(index)
        directions, centre = rays @ pose[:3, :3].T, pose[:3, 3]
        distance = np.where(directions >= 0, ROOM_HALF_SIZE_M - centre, ROOM_HALF_SIZE_M + centre)
        with np.errstate(divide='ignore'):
            return np.asarray((distance / np.abs(directions)).min(axis=-1))
