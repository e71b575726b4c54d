# Copyright 2026 qvggt_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Rotations, rigid motions and similarities, in float64.

`a_from_b` names the transform that takes coordinates in frame b to coordinates in frame a, so
`a_from_c = a_from_b @ b_from_c` reads off its own correctness. Quaternions are x, y, z, w.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

Float64Array = NDArray[np.float64]

# REP-103: an optical frame has x right, y down, z forward; a body or map frame has x forward,
# y left, z up. A map that starts at an upright camera is level when it is turned by this.
BODY_FROM_OPTICAL: Float64Array = np.array(
    [[0.0, 0.0, 1.0, 0.0], [-1.0, 0.0, 0.0, 0.0], [0.0, -1.0, 0.0, 0.0], [0.0, 0.0, 0.0, 1.0]]
)


def rotation_from_quaternion(quaternion: ArrayLike) -> Float64Array:
    """Return the rotations [..., 3, 3] of quaternions [..., 4] (x, y, z, w) of any length but 0.

    The factor 2/|q|^2 makes a normalisation beforehand unnecessary.
    """
    q = np.asarray(quaternion, dtype=np.float64)
    x, y, z, w = np.moveaxis(q, -1, 0)
    two_s = 2.0 / np.sum(q * q, axis=-1)
    rows = [
        [1 - two_s * (y * y + z * z), two_s * (x * y - z * w), two_s * (x * z + y * w)],
        [two_s * (x * y + z * w), 1 - two_s * (x * x + z * z), two_s * (y * z - x * w)],
        [two_s * (x * z - y * w), two_s * (y * z + x * w), 1 - two_s * (x * x + y * y)],
    ]
    return np.stack([np.stack(row, axis=-1) for row in rows], axis=-2)


def quaternion_from_rotation(rotation: ArrayLike) -> Float64Array:
    """Return the unit quaternion (x, y, z, w), w >= 0, of one rotation matrix [3, 3].

    The largest eigenvector of the matrix of Bar-Itzhack (J. Guidance 23(6), 2000) is exact for
    rotations, nearest for matrices that are slightly off, and has no branches to get wrong.
    """
    r = np.asarray(rotation, dtype=np.float64)
    lower = np.zeros((4, 4))
    lower[0, 0] = r[0, 0] - r[1, 1] - r[2, 2]
    lower[1, 0] = r[0, 1] + r[1, 0]
    lower[1, 1] = r[1, 1] - r[0, 0] - r[2, 2]
    lower[2, 0] = r[0, 2] + r[2, 0]
    lower[2, 1] = r[1, 2] + r[2, 1]
    lower[2, 2] = r[2, 2] - r[0, 0] - r[1, 1]
    lower[3, 0] = r[2, 1] - r[1, 2]
    lower[3, 1] = r[0, 2] - r[2, 0]
    lower[3, 2] = r[1, 0] - r[0, 1]
    lower[3, 3] = r[0, 0] + r[1, 1] + r[2, 2]
    quaternion = np.linalg.eigh(lower, UPLO='L')[1][:, -1]
    return -quaternion if quaternion[3] < 0 else quaternion


def rotation_angle(rotation: ArrayLike) -> float:
    """Return the angle in radians, in [0, pi], of one rotation matrix [3, 3]."""
    x, y, z, w = quaternion_from_rotation(rotation)
    return float(2.0 * np.arctan2(np.sqrt(x * x + y * y + z * z), w))


def pose_matrix(rotation: ArrayLike, translation: ArrayLike) -> Float64Array:
    """Return rigid motions [..., 4, 4] from rotations [..., 3, 3] and translations [..., 3]."""
    r = np.asarray(rotation, dtype=np.float64)
    matrix = np.zeros((*r.shape[:-2], 4, 4))
    matrix[..., :3, :3] = r
    matrix[..., :3, 3] = translation
    matrix[..., 3, 3] = 1.0
    return matrix


def invert_pose(pose: ArrayLike) -> Float64Array:
    """Return the inverses [..., 4, 4] of rigid motions [..., 4, 4] or [..., 3, 4]."""
    p = np.asarray(pose, dtype=np.float64)
    rotation_t = np.swapaxes(p[..., :3, :3], -1, -2)
    translation = -(rotation_t @ p[..., :3, 3:])[..., 0]
    return pose_matrix(rotation_t, translation)


def transform_points(pose: ArrayLike, points: ArrayLike) -> Float64Array:
    """Apply one rigid motion [4, 4] to points [..., 3]."""
    p = np.asarray(pose, dtype=np.float64)
    return np.asarray(points, dtype=np.float64) @ p[:3, :3].T + p[:3, 3]


@dataclass(frozen=True)
class Sim3:
    """A similarity x -> scale * rotation @ x + translation.

    Attributes:
        scale: positive factor, map units per window unit where a window is brought into a map.
        rotation: [3, 3].
        translation: [3].

    """

    scale: float
    rotation: Float64Array
    translation: Float64Array

    @staticmethod
    def identity() -> Sim3:
        """Return the similarity that changes nothing."""
        return Sim3(1.0, np.eye(3), np.zeros(3))

    @staticmethod
    def from_pose(pose: ArrayLike, scale: float = 1.0) -> Sim3:
        """Return the similarity of a rigid motion [4, 4] after scaling by `scale`."""
        p = np.asarray(pose, dtype=np.float64)
        return Sim3(scale, p[:3, :3].copy(), p[:3, 3].copy())

    def __matmul__(self, other: Sim3) -> Sim3:
        """Compose: first `other`, then self."""
        return Sim3(
            self.scale * other.scale,
            self.rotation @ other.rotation,
            self.scale * self.rotation @ other.translation + self.translation,
        )

    def inverse(self) -> Sim3:
        """Return the similarity that undoes this one."""
        rotation = self.rotation.T
        return Sim3(1.0 / self.scale, rotation, -rotation @ self.translation / self.scale)

    def apply(self, points: ArrayLike) -> Float64Array:
        """Map points [..., 3]."""
        return (
            np.asarray(points, dtype=np.float64) @ (self.scale * self.rotation).T
            + self.translation
        )

    def apply_pose(self, world_from_camera: ArrayLike) -> Float64Array:
        """Map camera poses [..., 4, 4]: the centre is scaled, the orientation only turned."""
        p = np.asarray(world_from_camera, dtype=np.float64)
        return pose_matrix(self.rotation @ p[..., :3, :3], self.apply(p[..., :3, 3]))
