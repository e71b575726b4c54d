# Copyright 2026 qvggt_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Noise-Filtered Diverse Sampling: which windows to calibrate on (QuantVGGT, sec. 3.3, eq. 9-13).

The paper measures mean and variance of the deep layers' outputs for each candidate, z-scores them
over the pool, drops what is far off, clusters the rest by how alike each frame and the first one
look to the network, and draws evenly from the clusters. Three things here are not in the paper:

- Median and MAD in place of mean and standard deviation: noise in the pool widens the latter
  until it hides itself. A limit in units of the spread in place of a fixed percentile: a
  percentile drops that share of a clean pool too, and lets the rest of a bad pool through. The
  percentile stays as a bound (`keep_share`).
- Tests of the pixels come first. They are absolute: what they say of a window does not depend on
  the pool, so that a pool that is mostly noise is seen through too, and windows that fail cost no
  forward pass. A frozen picture, a copy, or frames of different places have activations like any
  other window: no statistic of the activations could tell.
- What is dropped has a reason, and the same pool, weights and seed give the same windows.
"""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from qvggt_ros.errors import CalibrationError
from qvggt_ros.quantization.calibration_sources import WindowPool
from qvggt_ros.quantization.nfds_clusters import cluster, draw_evenly
from qvggt_ros.quantization.nfds_statistics import (
    FloatArray,
    NfdsConfig,
    Progress,
    WindowStatistics,
    measure_all,
    pixel_digest,
)
from qvggt_ros.quantization.window_faults import UInt8Array
from qvggt_ros.vggt.model import VGGT

MAD_TO_SIGMA = 1.4826  # of a normal distribution

SAME_SIGNATURE = 2  # levels, largest difference of two windows that are copies


@dataclass(frozen=True)
class CalibrationReport:
    """What became of each candidate; all indices are those of the pool.

    Attributes:
        pool: its name.
        candidates: windows looked at.
        kept: windows that passed, rising.
        dropped: why each of the others did not.
        scores: noise score of each window that passed the tests of pixels (eq. 11, robust).
        plain_scores: the same with the paper's mean and standard deviation, to compare.
        score_limit: the score from which windows were dropped.
        cluster_sizes: windows kept in each cluster.
        drawn: windows drawn from each cluster.
        notes: what the user should know.

    """

    pool: str
    candidates: int
    kept: list[int]
    dropped: dict[int, str]
    scores: dict[int, float]
    plain_scores: dict[int, float]
    score_limit: float
    cluster_sizes: list[int]
    drawn: list[int]
    notes: list[str]

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON values."""
        values = asdict(self)
        for name in ('dropped', 'scores', 'plain_scores'):
            values[name] = {str(index): value for index, value in values[name].items()}
        return values


@dataclass(frozen=True)
class CalibrationSet:
    """Windows to calibrate on.

    Attributes:
        windows: uint8 [n, S, H, W, 3] RGB.
        indices: [n], rising, of the pool.
        report: how they were chosen; None for a random set.
        digest: SHA-256 of the windows' shape and bytes.

    """

    windows: UInt8Array
    indices: NDArray[np.int64]
    report: CalibrationReport | None
    digest: str


def select(
    model: VGGT,
    pool: WindowPool,
    config: NfdsConfig,
    progress: Progress | None = None,
    cache: Path | None = None,
) -> CalibrationSet:
    """Choose windows to calibrate on.

    Args:
        model: the float network.
        pool: candidates; all windows of one shape.
        config: how.
        progress: called with windows done and windows in all.
        cache: folder where the statistics are kept, so that an interrupted run goes on.

    Raises:
        UsageError: a layer that the network does not have.
        CalibrationError: no window is usable, or activations are not finite.

    """
    if not len(pool):
        raise CalibrationError(f'{pool.name}: holds no windows')
    candidates = np.unique(np.linspace(0, len(pool) - 1, config.candidates).astype(np.int64))
    measured = measure_all(model, pool, candidates, config, progress, cache)
    scored = _score(pool, candidates, measured, config)
    kept = scored.places[~scored.bad]
    labels = cluster(np.stack([measured[i].cosine for i in kept]), config.clusters, config.seed)
    chosen = draw_evenly(labels, config.samples, config.seed)
    report = CalibrationReport(
        pool=pool.name,
        candidates=len(candidates),
        kept=candidates[kept].tolist(),
        dropped=scored.dropped,
        scores=_by_index(candidates[scored.places], scored.scores),
        plain_scores=_by_index(candidates[scored.places], scored.plain_scores),
        score_limit=scored.limit,
        cluster_sizes=np.bincount(labels).tolist(),
        drawn=np.bincount(labels[chosen], minlength=labels.max() + 1).tolist(),
        notes=_shortfall(len(chosen), config),
    )
    return _gather(pool, candidates[kept[chosen]], report)


@dataclass(frozen=True)
class _Scored:
    """Which candidates are refused.

    Attributes:
        places: [n] of the candidates whose pixels are usable, among the candidates.
        scores, plain_scores: [n] see `CalibrationReport`.
        bad: [n] whether the score is above the limit.
        limit: the limit.
        dropped: why candidates are refused, by pixels or score, by index of the pool.

    """

    places: NDArray[np.int64]
    scores: FloatArray
    plain_scores: FloatArray
    bad: NDArray[np.bool_]
    limit: float
    dropped: dict[int, str]


def _score(
    pool: WindowPool,
    candidates: NDArray[np.int64],
    measured: list[WindowStatistics],
    config: NfdsConfig,
) -> _Scored:
    """Refuse candidates for their pixels, and of the rest those with other activations."""
    dropped = _unusable(candidates, measured)
    usable = np.array([i for i, index in enumerate(candidates.tolist()) if index not in dropped])
    if not len(usable):
        raise CalibrationError(
            f'{pool.name}: no usable window to calibrate on: {_commonest(dropped)}'
        )
    table = np.stack([np.concatenate([measured[i].mean, measured[i].variance]) for i in usable])
    scores = noise_scores(table)
    bad, limit = _far_off(scores, config)
    for index, score in zip(candidates[usable[bad]].tolist(), scores[bad], strict=True):
        dropped[index] = f'activations unlike the rest: noise score {score:.1f} > {limit:.1f}'
    plain = noise_scores(table, robust=False)
    return _Scored(usable, scores, plain, bad, limit, dict(sorted(dropped.items())))


def random_set(pool: WindowPool, count: int, seed: int) -> CalibrationSet:
    """Draw windows at random, all if the pool has no more: what NFDS is to be better than."""
    rng = np.random.default_rng(seed)
    return _gather(pool, np.sort(rng.permutation(len(pool))[:count]), None)


def noise_scores(table: FloatArray, robust: bool = True) -> FloatArray:
    """Return how far each window's statistics lie from the pool's, [n] (eq. 10-11).

    The root of the sum of squared z-scores; with median and MAD, or as in the paper with mean and
    standard deviation.

    Args:
        table: [n, 2L] means and variances of the layers.
        robust: which centre and spread.

    """
    centre = np.median(table, axis=0) if robust else table.mean(axis=0)
    apart = np.abs(table - centre)
    spread = MAD_TO_SIGMA * np.median(apart, axis=0) if robust else table.std(axis=0)
    # A statistic that is the same in most windows must not make rounding errors count.
    floor = 1e-6 * np.abs(centre) + np.finfo(np.float64).tiny
    return np.sqrt(np.square(apart / np.maximum(spread, floor)).sum(axis=1))


def _far_off(scores: FloatArray, config: NfdsConfig) -> tuple[NDArray[np.bool_], float]:
    """Return which scores are above the limit, and the limit; see `NfdsConfig.keep_share`."""
    middle = np.median(scores)
    spread = MAD_TO_SIGMA * np.median(np.abs(scores - middle))
    limit = max(
        float(middle + config.score_limit * spread),
        float(np.quantile(scores, config.keep_share, method='higher')),
    )
    return scores > limit, limit


def _unusable(candidates: NDArray[np.int64], measured: list[WindowStatistics]) -> dict[int, str]:
    """Return why windows are refused for their pixels: by themselves, or as copies."""
    dropped: dict[int, str] = {}
    originals: list[int] = []
    for place, index in enumerate(candidates.tolist()):
        found = measured[place].fault
        small = measured[place].signature.astype(np.int16)
        if not found and originals:
            seen = np.stack([measured[i].signature for i in originals])
            same = np.abs(seen - small).reshape(len(seen), -1).max(axis=1) <= SAME_SIGNATURE
            if same.any():
                found = f'copy of window {candidates[originals[int(same.argmax())]]}'
        if found:
            dropped[index] = found
        else:
            originals.append(place)
    return dropped


def _commonest(dropped: dict[int, str]) -> str:
    """Return the three commonest reasons, without their numbers, and how often each."""
    reasons = Counter(re.sub(r'[\d.]+', 'n', why) for why in dropped.values())
    return '; '.join(f'{count} x {why}' for why, count in reasons.most_common(3))


def _shortfall(found: int, config: NfdsConfig) -> list[str]:
    if found >= config.samples:
        return []
    return [f'{found} windows are usable, {config.samples} were asked for']


def _by_index(indices: NDArray[np.int64], scores: FloatArray) -> dict[int, float]:
    return dict(zip(indices.tolist(), scores.tolist(), strict=True))


def _gather(
    pool: WindowPool, indices: NDArray[np.int64], report: CalibrationReport | None
) -> CalibrationSet:
    if not len(indices):
        raise CalibrationError(f'{pool.name}: no windows to calibrate on')
    windows = np.stack([pool.window(int(index)) for index in indices])
    return CalibrationSet(windows, indices, report, pixel_digest(windows))
