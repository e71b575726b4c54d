# Copyright 2026 qvggt_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Bring a window into the map by the frames that both know.

Every window has a scale and a frame of its own. Camera centres cannot tie it to the map: on a
straight line or in a turn on the spot they leave scale or roll free. The shared frames' dense
depths and whole poses can.

Scale comes first, from depths alone: the median of log(map depth / window depth) over a shared
frame's pixels, and the mean of that over the frames, so that each of them counts. It needs no
rotation, half of the pixels may be wrong, and it is symmetric, so that it does not drift along a
chain of windows. Umeyama's least-squares scale (PAMI 13(4), 1991,
eq. 42) is not: noise in the window's points shrinks it, by 0.9 % per window at 5 % depth noise
and by 5.7 % at 15 % (simulated room), which is exponential over a chain. The ratio of RMS spreads
(Horn, JOSA A 4(4), 1987) does not shrink, but varies up to five times as much when the poses of
the shared frames disagree.

Rotation and translation follow from the poses of the shared frames: the window is turned by the
mean of their rotations, and their mean centre stays where it is (VGGT-SLAM 2 ties submaps so, by
one frame). Alternatively from the dense points, by weighted least squares (Kabsch) reweighted with
Huber's weights (IRLS). Points bring the error of their depths into the rotation: with the demo
model, poses leave a third of the rotation error from frame to frame (docs/measurements.md).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from qvggt_ros.errors import ReconstructionError
from qvggt_ros.reconstruction.geometry import Float64Array, Sim3

FloatArray = NDArray[np.floating]
ALIGN_BY = ('poses', 'points')


@dataclass(frozen=True)
class AlignmentConfig:
    """How windows are aligned.

    `rigid_from` says what rotation and translation come from: the shared frames' `poses`, or their
    dense `points`, for networks whose depth is better than their poses.
    """

    rigid_from: Literal['poses', 'points'] = 'poses'
    max_points: int = 20_000  # over all shared frames
    min_points: int = 50  # fewer do not determine a similarity worth having
    huber_delta: float = 0.05  # of the median depth: residuals beyond it count linearly
    iterations: int = 10  # of the fit to points
    max_scale_ratio: float = 1000.0  # a window's scale against the map's: beyond it, nonsense


@dataclass(frozen=True)
class SharedFrame:
    """One frame's samples, the same n pixels in map and window; confidence 0 = not valid.

    Attributes:
        map_points: [n, 3] in the map; map_depth [n] in map units; map_confidence [n].
        map_from_camera: [4, 4] the frame's pose in the map.
        window_points: [n, 3] in the window; window_depth, window_confidence likewise.
        window_from_camera: [4, 4] the frame's pose in the window.

    """

    map_points: FloatArray
    map_depth: FloatArray
    map_confidence: FloatArray
    map_from_camera: Float64Array
    window_points: FloatArray
    window_depth: FloatArray
    window_confidence: FloatArray
    window_from_camera: Float64Array


@dataclass(frozen=True)
class Alignment:
    """Where a window lies in the map, and how well it fits.

    Attributes:
        map_from_window: the similarity that takes window points to the map.
        residual: weighted median distance of corresponding points / median depth.
        inlier_share: share of the weight whose distance is below huber_delta * median depth.
        point_count: correspondences used.
        median_depth: of the shared pixels, map units.
        fallback: empty, or why the points that were asked for were not used.

    """

    map_from_window: Sim3
    residual: float
    inlier_share: float
    point_count: int
    median_depth: float
    fallback: str = ''


def align_window(
    shared_frames: Sequence[SharedFrame], config: AlignmentConfig | None = None
) -> Alignment:
    """Return the similarity that takes a window to the map.

    Raises:
        ReconstructionError: too few valid shared points, or scales that are beyond reason.

    """
    config = config or AlignmentConfig()
    pairs = _Correspondences.gather(shared_frames)
    if len(pairs.weight) < config.min_points:
        raise ReconstructionError(
            f"only {len(pairs.weight)} of the shared frames' points are valid: at least "
            f'{config.min_points} are needed to align a window'
        )
    scale = pairs.scale()
    if not 1 / config.max_scale_ratio < scale < config.max_scale_ratio:
        raise ReconstructionError(f'window scale {scale:.3g} against the map: beyond reason')
    median_depth = weighted_median(pairs.map_depth, pairs.weight)
    delta = config.huber_delta * median_depth
    similarity, fallback = pose_tied_similarity(shared_frames, scale), ''
    if config.rigid_from == 'points':
        similarity, fallback = _refine(pairs, similarity, delta, config.iterations)
    distance = pairs.distances(similarity)
    inliers = distance <= delta
    return Alignment(
        map_from_window=similarity,
        residual=weighted_median(distance, pairs.weight) / median_depth,
        inlier_share=float(pairs.weight[inliers].sum() / pairs.weight.sum()),
        point_count=len(distance),
        median_depth=median_depth,
        fallback=fallback,
    )


def depth_ratio_scale(
    map_depth: FloatArray, window_depth: FloatArray, weight: FloatArray
) -> float:
    """Return the scale that takes window depths to map depths: the median of their log ratio."""
    return float(np.exp(weighted_median(np.log(map_depth) - np.log(window_depth), weight)))


def pose_tied_similarity(frames: Sequence[SharedFrame], scale: float) -> Sim3:
    """Return the similarity of given scale that makes shared frames' poses equal, in the mean.

    Rotations are averaged as matrices (the chordal mean; Hartley et al., IJCV 103(3), 2013),
    centres as points.
    """
    turns = sum(f.map_from_camera[:3, :3] @ f.window_from_camera[:3, :3].T for f in frames)
    u, _, vt = np.linalg.svd(turns)
    rotation = u @ np.diag([1.0, 1.0, np.linalg.det(u @ vt)]) @ vt
    centre = np.mean([frame.map_from_camera[:3, 3] for frame in frames], axis=0)
    window_centre = np.mean([frame.window_from_camera[:3, 3] for frame in frames], axis=0)
    return Sim3(scale, rotation, centre - scale * rotation @ window_centre)


def weighted_median(values: FloatArray, weight: FloatArray) -> float:
    """Return the value at which half of the weight is reached."""
    order = np.argsort(values, kind='stable')
    cumulative = np.cumsum(weight[order], dtype=np.float64)
    middle = int(np.searchsorted(cumulative, 0.5 * cumulative[-1]))
    return float(values[order[min(middle, len(order) - 1)]])


@dataclass(frozen=True)
class _Correspondences:
    """Valid pairs over all shared frames; weight is the geometric mean of the confidences."""

    map_points: Float64Array
    window_points: Float64Array
    map_depth: Float64Array
    window_depth: Float64Array
    weight: Float64Array
    frame: NDArray[np.intp]  # which shared frame a pair is of

    @staticmethod
    def gather(frames: Sequence[SharedFrame]) -> _Correspondences:
        """Collect the pairs in which both sides are finite, in front of the camera and trusted."""
        if not frames:
            raise ReconstructionError('no shared frame: a window needs an overlap of at least 1')
        map_points = _stack([frame.map_points for frame in frames])
        window_points = _stack([frame.window_points for frame in frames])
        map_depth = _stack([frame.map_depth for frame in frames])
        window_depth = _stack([frame.window_depth for frame in frames])
        map_confidence = _stack([frame.map_confidence for frame in frames])
        window_confidence = _stack([frame.window_confidence for frame in frames])
        valid = _trusted(map_confidence) & _trusted(window_confidence)
        valid &= (map_depth > 0) & (window_depth > 0)
        valid &= np.isfinite(map_depth) & np.isfinite(window_depth)
        valid &= np.isfinite(map_points).all(axis=1) & np.isfinite(window_points).all(axis=1)
        return _Correspondences(
            map_points[valid],
            window_points[valid],
            map_depth[valid],
            window_depth[valid],
            np.sqrt(map_confidence[valid] * window_confidence[valid]),
            np.repeat(np.arange(len(frames)), [len(f.map_depth) for f in frames])[valid],
        )

    def scale(self) -> float:
        """Return the scale from window to map: the geometric mean of the frames' own."""
        parts = [self.frame == index for index in np.unique(self.frame)]
        scales = [
            depth_ratio_scale(self.map_depth[part], self.window_depth[part], self.weight[part])
            for part in parts
        ]
        weights = [self.weight[part].sum() for part in parts]
        return float(np.exp(np.average(np.log(scales), weights=weights)))

    def distances(self, similarity: Sim3) -> Float64Array:
        """Return each pair's distance in the map, map units."""
        difference = self.map_points - similarity.apply(self.window_points)
        return np.sqrt(np.einsum('ij,ij->i', difference, difference))


def _stack(arrays: Sequence[FloatArray]) -> Float64Array:
    return np.concatenate([np.asarray(array, dtype=np.float64) for array in arrays])


def _trusted(confidence: Float64Array) -> NDArray[np.bool_]:
    """Return where the confidence is a tenth of its median or more (VGGT-Long's rule)."""
    finite = np.isfinite(confidence) & (confidence > 0)
    if not finite.any():
        return finite
    return finite & (confidence >= 0.1 * np.median(confidence[finite]))


def _refine(
    pairs: _Correspondences, start: Sim3, delta: float, iterations: int
) -> tuple[Sim3, str]:
    """Refine rotation and translation by IRLS; return the start and a reason if they are free."""
    similarity = start
    cost_before = np.inf
    for _ in range(iterations):
        distance = pairs.distances(similarity)
        huber = np.where(distance <= delta, 1.0, delta / np.maximum(distance, delta))
        rigid = _weighted_rigid(pairs, pairs.weight * huber, start.scale)
        if rigid is None:
            return start, 'shared points lie on a line: poses of shared frames taken'
        similarity = rigid
        cost = float((pairs.weight * huber * distance**2).sum())
        if abs(cost_before - cost) <= 1e-9 * cost:
            break
        cost_before = cost
    return similarity, ''


def _weighted_rigid(pairs: _Correspondences, weight: Float64Array, scale: float) -> Sim3 | None:
    """Return the best similarity of given scale (Kabsch), None where the rotation is free."""
    w = weight / weight.sum()
    map_mean = w @ pairs.map_points
    window_mean = scale * (w @ pairs.window_points)
    a = pairs.map_points - map_mean
    b = scale * pairs.window_points - window_mean
    u, singular, vt = np.linalg.svd((b * w[:, None]).T @ a)
    # Two directions fix a rotation; the third follows from the right-hand rule.
    if singular[1] <= 1e-9 * max(singular[0], np.finfo(float).tiny):
        return None
    handedness = np.sign(np.linalg.det(u) * np.linalg.det(vt))
    rotation = vt.T @ np.diag([1.0, 1.0, handedness]) @ u.T
    return Sim3(scale, rotation, map_mean - rotation @ window_mean)
