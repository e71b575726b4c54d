# Copyright 2026 qvggt_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Accuracy of camera poses and depth, as the multi-view reconstruction field measures it.

Poses are compared pair by pair, so no alignment and no scale is needed (CO3Dv2 protocol of
PoseDiffusion and VGGT); depth is compared after one median scale per window.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import ArrayLike, NDArray

Float64Array = NDArray[np.float64]

AUC_THRESHOLDS_DEG = (30, 15, 10, 5, 3)
# What a pair counts for whose translation has no direction, or a pose that is not finite.
UNDEFINED_ERROR_DEG = 1e6
DELTA1_RATIO = 1.25


def relative_pose_errors(
    estimated: ArrayLike, true: ArrayLike
) -> tuple[Float64Array, Float64Array]:
    """Compare the relative poses of all frame pairs i < j of one window.

    Args:
        estimated: [s, 3 or 4, 4] camera-from-world, any scale and any world.
        true: [s, 3 or 4, 4] camera-from-world.

    Returns:
        rotation_deg, translation_deg: [s (s - 1) / 2] each. The rotation error is the angle of
        the residual rotation; the translation error the angle between the directions, without
        regard to sign (0 to 90), and `UNDEFINED_ERROR_DEG` where a direction does not exist.

    """
    estimated_relative = _pairwise_relative(np.asarray(estimated, dtype=np.float64))
    true_relative = _pairwise_relative(np.asarray(true, dtype=np.float64))
    rotation = _rotation_angle_deg(estimated_relative[:, :3, :3], true_relative[:, :3, :3])
    translation = _direction_angle_deg(estimated_relative[:, :3, 3], true_relative[:, :3, 3])
    return rotation, translation


def pose_auc(rotation_deg: ArrayLike, translation_deg: ArrayLike, threshold_deg: int) -> float:
    """Area under the accuracy curve up to a threshold, in percent.

    A pair's error is the larger of its rotation and translation error. Accuracy is counted in
    bins of one degree and its cumulative sum averaged over the bins (PoseDiffusion, VGGT).
    """
    errors = np.maximum(np.asarray(rotation_deg), np.asarray(translation_deg))
    if errors.size == 0:
        return float('nan')
    counts, _ = np.histogram(errors, bins=np.arange(threshold_deg + 1))
    return float(100.0 * np.mean(np.cumsum(counts / errors.size)))


def median_scale(estimated_depth: ArrayLike, true_depth: ArrayLike) -> float:
    """Return median(true) / median(estimated) over the valid pixels of one window.

    Valid are pixels of finite, positive true depth; NaN where there is none.
    """
    estimated, true = _valid_depths(estimated_depth, true_depth)
    if true.size == 0:
        return float('nan')
    return float(np.median(true) / max(np.median(estimated), 1e-12))


def depth_errors(estimated_depth: ArrayLike, true_depth: ArrayLike) -> tuple[float, float]:
    """AbsRel and delta1 of one window after one median scale.

    Args:
        estimated_depth: [s, H, W] z-depth of any scale.
        true_depth: [s, H, W] z-depth; pixels that are not finite or not positive are left out.

    Returns:
        absrel: mean |d - d*| / d*; delta1: share of pixels with max(d/d*, d*/d) < 1.25.
        Both NaN without a valid pixel.

    """
    estimated, true = _valid_depths(estimated_depth, true_depth)
    if true.size == 0:
        return float('nan'), float('nan')
    scaled = np.maximum(estimated * median_scale(estimated, true), 1e-12)
    absrel = np.mean(np.abs(scaled - true) / true)
    delta1 = np.mean(np.maximum(scaled / true, true / scaled) < DELTA1_RATIO)
    return float(absrel), float(delta1)


@dataclass
class AccuracyAccumulator:
    """Pools the errors of many windows; `summary` has the published names."""

    rotation_deg: list[Float64Array] = field(default_factory=list)
    translation_deg: list[Float64Array] = field(default_factory=list)
    absrel: list[float] = field(default_factory=list)
    delta1: list[float] = field(default_factory=list)

    def add(
        self,
        estimated_poses: ArrayLike,
        true_poses: ArrayLike,
        estimated_depth: ArrayLike | None = None,
        true_depth: ArrayLike | None = None,
    ) -> None:
        """Add one window: poses [s, 3 or 4, 4] camera-from-world, depth [s, H, W]."""
        rotation, translation = relative_pose_errors(estimated_poses, true_poses)
        self.rotation_deg.append(rotation)
        self.translation_deg.append(translation)
        if estimated_depth is not None and true_depth is not None:
            absrel, delta1 = depth_errors(estimated_depth, true_depth)
            self.absrel.append(absrel)
            self.delta1.append(delta1)

    def summary(self) -> dict[str, float]:
        """Return AUCs (percent, pooled over pairs), medians (degrees) and depth means."""
        rotation = _pooled(self.rotation_deg)
        translation = _pooled(self.translation_deg)
        figures = {
            f'auc{threshold}': pose_auc(rotation, translation, threshold)
            for threshold in AUC_THRESHOLDS_DEG
        }
        figures['rot_median_deg'] = _median(rotation)
        figures['trans_median_deg'] = _median(translation)
        figures['absrel'] = _mean(self.absrel)
        figures['delta1'] = _mean(self.delta1)
        figures['windows'] = len(self.rotation_deg)
        return figures


def _pairwise_relative(camera_from_world: Float64Array) -> Float64Array:
    """[s, 3 or 4, 4] -> [pairs, 3, 4] camera_i from camera_j for i < j, closed-form inverse."""
    first, second = np.triu_indices(len(camera_from_world), k=1)
    rotation = camera_from_world[:, :3, :3]
    translation = camera_from_world[:, :3, 3:]
    relative_rotation = rotation[first] @ np.swapaxes(rotation[second], -1, -2)
    relative_translation = translation[first] - relative_rotation @ translation[second]
    return np.concatenate([relative_rotation, relative_translation], axis=-1)


def _rotation_angle_deg(first: Float64Array, second: Float64Array) -> Float64Array:
    """Angle of first^T second, [n]; exact near zero, where arccos of the trace is not."""
    residual = np.swapaxes(first, -1, -2) @ second
    # |R - I|_F = 2 sqrt(2) sin(angle / 2)
    chord = np.linalg.norm(residual - np.eye(3), axis=(-2, -1)) / (2 * np.sqrt(2))
    angle = np.degrees(2 * np.arcsin(np.clip(chord, 0, 1)))
    return np.where(np.isfinite(angle), angle, UNDEFINED_ERROR_DEG)


def _direction_angle_deg(first: Float64Array, second: Float64Array) -> Float64Array:
    """Angle between lines along the vectors, [n], 0 to 90; atan2 keeps small angles exact."""
    across = np.linalg.norm(np.cross(first, second), axis=-1)
    along = np.abs(np.sum(first * second, axis=-1))
    defined = (across + along > 0) & np.isfinite(across + along)
    return np.where(defined, np.degrees(np.arctan2(across, along)), UNDEFINED_ERROR_DEG)


def _valid_depths(
    estimated_depth: ArrayLike, true_depth: ArrayLike
) -> tuple[Float64Array, Float64Array]:
    estimated = np.asarray(estimated_depth, dtype=np.float64).ravel()
    true = np.asarray(true_depth, dtype=np.float64).ravel()
    valid = np.isfinite(true) & (true > 0)
    return estimated[valid], true[valid]


def _pooled(errors: Sequence[Float64Array]) -> Float64Array:
    return np.concatenate(errors) if errors else np.empty(0)


def _median(values: Float64Array) -> float:
    return float(np.median(values)) if values.size else float('nan')


def _mean(values: Sequence[float]) -> float:
    finite = [value for value in values if np.isfinite(value)]
    return float(np.mean(finite)) if finite else float('nan')
