# Copyright 2026 qvggt_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""The network's pose encoding and depth into cameras and points, in float64.

Conventions are the network's own, because it was trained with them: the principal point lies at
(W/2, H/2), and pixel (u, v) is unprojected at its integer coordinates. Together these put every
ray half a pixel to the upper left of OpenCV's; depths learned that way are right that way.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from qvggt_ros.errors import ReconstructionError
from qvggt_ros.reconstruction.geometry import Float64Array, rotation_from_quaternion

# The network's field of view passes a ReLU and can be exactly 0, whose focal length is infinite.
MIN_FOV_RAD = 0.02
MAX_FOV_RAD = np.pi - 0.02
MIN_QUATERNION_NORM = 1e-6


def decode_pose_encoding(
    pose_enc: ArrayLike, width: int, height: int
) -> tuple[Float64Array, Float64Array]:
    """Decode cameras from the network's 9 numbers per frame.

    Args:
        pose_enc: [..., 9] translation (3), quaternion x y z w (4, any length), vertical and
            horizontal field of view in radians.
        width: of the network's image, pixels.
        height: of the network's image, pixels.

    Returns:
        camera_from_world [..., 3, 4] (OpenCV camera) and intrinsics [..., 3, 3] in pixels. A field
        of view of 0 gives an infinite focal length; `clamp_fov` beforehand where that would harm.

    Raises:
        ReconstructionError: a value is not finite, or a quaternion is zero.

    """
    encoding = np.asarray(pose_enc, dtype=np.float64)
    if not np.isfinite(encoding).all():
        raise ReconstructionError('pose_enc holds NaN or infinity: the engine computes wrongly')
    quaternion = encoding[..., 3:7]
    if (np.linalg.norm(quaternion, axis=-1) < MIN_QUATERNION_NORM).any():
        raise ReconstructionError('pose_enc holds a zero quaternion: no rotation can be read')
    camera_from_world = np.concatenate(
        [rotation_from_quaternion(quaternion), encoding[..., :3, None]], axis=-1
    )
    intrinsics = np.zeros((*encoding.shape[:-1], 3, 3))
    with np.errstate(divide='ignore'):
        intrinsics[..., 0, 0] = (width / 2) / np.tan(encoding[..., 8] / 2)
        intrinsics[..., 1, 1] = (height / 2) / np.tan(encoding[..., 7] / 2)
    intrinsics[..., 0, 2] = width / 2
    intrinsics[..., 1, 2] = height / 2
    intrinsics[..., 2, 2] = 1.0
    return camera_from_world, intrinsics


def clamp_fov(pose_enc: ArrayLike) -> tuple[Float64Array, bool]:
    """Return pose_enc [..., 9] with usable fields of view, and whether any had to be changed."""
    encoding = np.array(pose_enc, dtype=np.float64)
    clamped = np.clip(encoding[..., 7:9], MIN_FOV_RAD, MAX_FOV_RAD)
    changed = bool((clamped != encoding[..., 7:9]).any())
    encoding[..., 7:9] = clamped
    return encoding, changed


def unproject(
    depth: NDArray[np.floating], intrinsics: ArrayLike, camera_from_world: ArrayLike
) -> Float64Array:
    """Unproject one z-depth image to points in the world.

    Args:
        depth: [H, W] along the optical axis.
        intrinsics: [3, 3], pixels.
        camera_from_world: [3, 4] or [4, 4].

    Returns:
        points [H, W, 3] in the world, in the unit of depth and translation.

    """
    height, width = depth.shape
    matrix, centre = _rays_and_centre(intrinsics, camera_from_world)
    of_columns = np.arange(width)[:, None] * matrix[:, 0]
    of_rows = np.arange(height)[:, None] * matrix[:, 1] + matrix[:, 2]
    points = of_columns[None] + of_rows[:, None]
    points *= depth[..., None]
    points += centre
    return points


def unproject_pixels(
    u: ArrayLike,
    v: ArrayLike,
    depth: ArrayLike,
    intrinsics: ArrayLike,
    camera_from_world: ArrayLike,
) -> Float64Array:
    """Unproject chosen pixels (u, v: [n] integers; depth: [n]) to points [n, 3] in the world."""
    matrix, centre = _rays_and_centre(intrinsics, camera_from_world)
    u_column = np.asarray(u, np.float64)[:, None]
    v_column = np.asarray(v, np.float64)[:, None]
    points = u_column * matrix[:, 0] + v_column * matrix[:, 1] + matrix[:, 2]
    points *= np.asarray(depth, np.float64)[:, None]
    points += centre
    return points


def _rays_and_centre(
    intrinsics: ArrayLike, camera_from_world: ArrayLike
) -> tuple[Float64Array, Float64Array]:
    """Return R^T K^-1 [3, 3] and the camera's centre -R^T t [3]: X = d R^T K^-1 (u, v, 1) - R^T t.

    K^-1 is written out, without skew, so that an infinite focal length gives a zero and no NaN.
    """
    k = np.asarray(intrinsics, dtype=np.float64)
    fx, fy, cx, cy = k[0, 0], k[1, 1], k[0, 2], k[1, 2]
    k_inverse = np.array([[1 / fx, 0, -cx / fx], [0, 1 / fy, -cy / fy], [0, 0, 1]])
    extrinsic = np.asarray(camera_from_world, dtype=np.float64)
    world_from_camera = extrinsic[:3, :3].T
    return world_from_camera @ k_inverse, -world_from_camera @ extrinsic[:3, 3]
