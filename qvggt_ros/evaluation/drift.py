# Copyright 2026 qvggt_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Drift: how far a quantised network has moved from the float one on the same windows.

Accuracy against the truth hides small harm behind the float network's own errors; drift does not.
The float network's predictions are made once (`reference_run`) and serve any number of models.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.spatial.transform import Rotation

from qvggt_ros.evaluation.accuracy import Predict, WindowBatch, evaluate
from qvggt_ros.evaluation.metrics import median_scale
from qvggt_ros.reconstruction.decode import decode_pose_encoding

Float32Array = NDArray[np.float32]
Float64Array = NDArray[np.float64]

# A camera that moved by less than this share of the window's median depth has next to no parallax:
# the direction of its translation is noise even in the float network.
MIN_TRANSLATION_SHARE = 0.01
PERCENTILES = {'median': 0.5, 'p95': 0.95}
PREFIX = 'drift_'


class LogHistogram:
    """Quantiles of a stream of errors >= 0 in constant memory.

    Bins are even in the logarithm, so a quantile is right to 0.06 %. Below the lowest edge counts
    as 0; above the highest, and what is not finite, as infinity.
    """

    LOWEST, HIGHEST, BINS_PER_DECADE = -12, 12, 2000

    def __init__(self) -> None:
        inner = (self.HIGHEST - self.LOWEST) * self.BINS_PER_DECADE
        self._counts = np.zeros(inner + 2, dtype=np.int64)
        centres = self.LOWEST + (np.arange(inner) + 0.5) / self.BINS_PER_DECADE
        self._values = np.concatenate([[0.0], 10.0**centres, [np.inf]])

    def add(self, errors: ArrayLike) -> None:
        """Count errors of any shape."""
        values = np.asarray(errors).ravel()
        with np.errstate(divide='ignore', invalid='ignore'):
            place = (np.log10(values) - self.LOWEST) * self.BINS_PER_DECADE
        last = len(self._counts) - 1
        # NaN passes through clip, and counts as the worst.
        bins = np.nan_to_num(np.clip(np.floor(place) + 1, 0, last), nan=last).astype(np.int64)
        self._counts += np.bincount(bins, minlength=last + 1)

    def quantile(self, share: float) -> float:
        """Return the least value that `share` of the errors do not exceed; NaN without any."""
        total = self._counts.sum()
        if total == 0:
            return float('nan')
        wanted = max(1, int(np.ceil(share * total)))
        return float(self._values[np.searchsorted(np.cumsum(self._counts), wanted)])


@dataclass
class DriftAccumulator:
    """Pools the differences of many windows between a model and the float reference.

    Cameras are taken relative to the window's own first camera, whose drift therefore shows in
    all others; the first frame itself counts for its field of view only. Quantities:

        rot_deg: angle between the two rotations, degrees.
        trans_dir_deg: angle between the two translations, 0 to 180 degrees.
        trans_len_rel: | |t| - |t*| | / |t*|, t* being the reference's.
        fov_deg: difference of the fields of view, both axes pooled, degrees.
        depth_rel: |d - d*| / d* per pixel as predicted.
        depth_scaled_rel: the same after one median scale per window.

    The two of translation leave out frames whose |t*| is below `MIN_TRANSLATION_SHARE` of the
    window's median d*.
    """

    pooled: dict[str, list[Float64Array]] = field(
        default_factory=lambda: {
            name: [] for name in ('rot_deg', 'trans_dir_deg', 'trans_len_rel', 'fov_deg')
        }
    )
    depths: dict[str, LogHistogram] = field(
        default_factory=lambda: {
            name: LogHistogram() for name in ('depth_rel', 'depth_scaled_rel')
        }
    )
    windows: int = 0

    def add(
        self,
        pose_enc: ArrayLike,
        depth: ArrayLike,
        reference_pose_enc: ArrayLike,
        reference_depth: ArrayLike,
    ) -> None:
        """Add one window: pose encodings [s, 9] and z-depths [s, H, W], reference's > 0.

        Raises:
            ReconstructionError: a pose encoding is not finite or holds a zero quaternion.

        """
        true_depth = np.asarray(reference_depth, np.float32)
        least = MIN_TRANSLATION_SHARE * float(np.median(true_depth))
        found, true = np.asarray(pose_enc), np.asarray(reference_pose_enc)
        for name, errors in camera_drift(found, true, least).items():
            self.pooled[name].append(errors)
        self._add_depth(np.asarray(depth, np.float32), true_depth)
        self.windows += 1

    def _add_depth(self, depth: Float32Array, reference: Float32Array) -> None:
        self.depths['depth_rel'].add(np.abs(depth - reference) / reference)
        scaled = depth * np.float32(median_scale(depth, reference))
        self.depths['depth_scaled_rel'].add(np.abs(scaled - reference) / reference)

    def summary(self) -> dict[str, float]:
        """Return `<quantity>_median` and `<quantity>_p95` of each quantity, and `windows`.

        NaN where nothing was counted, as for the translation of cameras that stand still.
        """
        figures: dict[str, float] = {}
        for name, errors in self.pooled.items():
            values = np.concatenate(errors) if errors else np.empty(0)
            for suffix, share in PERCENTILES.items():
                known = values.size > 0
                figures[f'{name}_{suffix}'] = (
                    float(np.quantile(values, share)) if known else float('nan')
                )
        for name, histogram in self.depths.items():
            for suffix, share in PERCENTILES.items():
                figures[f'{name}_{suffix}'] = histogram.quantile(share)
        figures['windows'] = self.windows
        return figures


def camera_drift(
    pose_enc: ArrayLike, reference_pose_enc: ArrayLike, least_translation: float
) -> dict[str, Float64Array]:
    """Compare the cameras of one window, each relative to its window's first.

    Args:
        pose_enc: [s, 9] of the model, see `decode_pose_encoding`.
        reference_pose_enc: [s, 9] of the reference.
        least_translation: in the reference's unit; frames that moved less have no direction.

    Returns:
        rot_deg [s - 1], trans_dir_deg and trans_len_rel [n <= s - 1], fov_deg [2 s].

    Raises:
        ReconstructionError: a pose encoding is not finite or holds a zero quaternion.

    """
    turn, shift = _relative_to_first(pose_enc)
    true_turn, true_shift = _relative_to_first(reference_pose_enc)
    true_length = np.linalg.norm(true_shift, axis=-1)
    moved = true_length >= max(least_translation, np.finfo(np.float64).tiny)
    shift, true_shift, true_length = shift[moved], true_shift[moved], true_length[moved]
    length = np.linalg.norm(shift, axis=-1)
    across = np.linalg.norm(np.cross(shift, true_shift), axis=-1)
    fov, true_fov = (np.asarray(p, np.float64)[:, 7:9] for p in (pose_enc, reference_pose_enc))
    return {
        'rot_deg': np.degrees((turn * true_turn.inv()).magnitude()),
        'trans_dir_deg': np.degrees(np.arctan2(across, np.sum(shift * true_shift, axis=-1))),
        'trans_len_rel': np.abs(length - true_length) / true_length,
        'fov_deg': np.degrees(np.abs(fov - true_fov)).ravel(),
    }


@dataclass(frozen=True)
class ReferenceRun:
    """Windows with their truth, and what the float network makes of them, held in memory.

    Attributes:
        batches: the windows.
        pose_enc: for each batch [b, s, 9].
        depth: for each batch [b, s, H, W].
        accuracy: the float network's own, keys of `evaluate`.

    """

    batches: tuple[WindowBatch, ...]
    pose_enc: tuple[Float32Array, ...]
    depth: tuple[Float32Array, ...]
    accuracy: dict[str, float]


def reference_run(
    predict: Predict,
    batches: Iterable[WindowBatch],
    progress: Callable[[int], None] | None = None,
) -> ReferenceRun:
    """Run the float network over all windows once; `progress` gets the number of windows done."""
    kept = tuple(batches)
    poses: list[Float32Array] = []
    depths: list[Float32Array] = []

    def predict_and_keep(images: NDArray[np.uint8]) -> tuple[Float32Array, Float32Array]:
        pose_enc, depth = predict(images)
        poses.append(pose_enc)
        depths.append(depth)
        return pose_enc, depth

    accuracy = evaluate(predict_and_keep, kept, progress)
    return ReferenceRun(kept, tuple(poses), tuple(depths), accuracy)


def evaluate_with_drift(
    predict: Predict,
    reference: ReferenceRun,
    progress: Callable[[int], None] | None = None,
) -> dict[str, float]:
    """Score a model against the truth and against the float network, in one pass.

    Returns:
        The keys of `evaluate`, and those of `DriftAccumulator.summary` after `drift_`.

    Raises:
        ReconstructionError: the model's pose encodings are not finite.

    """
    drift = DriftAccumulator()
    references = iter(zip(reference.pose_enc, reference.depth, strict=True))

    def predict_and_compare(images: NDArray[np.uint8]) -> tuple[Float32Array, Float32Array]:
        pose_enc, depth = predict(images)
        for window in zip(pose_enc, depth, *next(references), strict=True):
            drift.add(*window)
        return pose_enc, depth

    accuracy = evaluate(predict_and_compare, reference.batches, progress)
    moved = drift.summary()
    del moved['windows']  # the same as accuracy's
    return accuracy | {f'{PREFIX}{name}': value for name, value in moved.items()}


def _relative_to_first(pose_enc: ArrayLike) -> tuple[Rotation, Float64Array]:
    """Return rotations and translations [s - 1, 3] of camera i from the first camera."""
    # The image's size matters to the intrinsics only, which are not used here.
    camera_from_world, _ = decode_pose_encoding(pose_enc, 1, 1)
    turn = Rotation.from_matrix(camera_from_world[:, :, :3])
    shift = camera_from_world[:, :, 3]
    from_first = turn[1:] * turn[0].inv()
    return from_first, shift[1:] - from_first.apply(shift[0])
