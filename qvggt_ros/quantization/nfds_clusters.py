# Copyright 2026 qvggt_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Clusters of windows, and an even draw from them."""

from __future__ import annotations

import warnings

import numpy as np
from numpy.typing import NDArray
from scipy.cluster.vq import kmeans2

FloatArray = NDArray[np.float64]

KMEANS_RESTARTS = 10
KMEANS_STEPS = 100


def cluster(points: FloatArray, clusters: int, seed: int) -> NDArray[np.int64]:
    """Return the k-means cluster of each point [n, d]: k-means++ starts, the best of several.

    Fewer clusters come out where there are fewer distinct points; none is empty.
    """
    distinct = len(np.unique(points, axis=0))
    rng = np.random.default_rng(seed)
    best, least = np.zeros(len(points), np.int64), np.inf
    if points.shape[1] == 0 or min(clusters, distinct) == 1:
        return best
    for _ in range(KMEANS_RESTARTS):
        start = _spread_out(points, min(clusters, distinct), rng)
        with warnings.catch_warnings():
            warnings.simplefilter('ignore')  # of an empty cluster, which does no harm
            centres, labels = kmeans2(points, start, iter=KMEANS_STEPS, minit='matrix')
        inertia = np.square(points - centres[labels]).sum()
        if inertia < least:
            best, least = labels.astype(np.int64), inertia
    return np.unique(best, return_inverse=True)[1].astype(np.int64)


def _spread_out(points: FloatArray, count: int, rng: np.random.Generator) -> FloatArray:
    """Draw first centres far from each other (k-means++, Arthur and Vassilvitskii 2007)."""
    centres = [points[rng.integers(len(points))]]
    while len(centres) < count:
        apart = np.min([np.square(points - c).sum(axis=1) for c in centres], axis=0)
        centres.append(points[rng.choice(len(points), p=apart / apart.sum())])
    return np.stack(centres)


def draw_evenly(labels: NDArray[np.int64], count: int, seed: int) -> NDArray[np.int64]:
    """Draw places at random, as many from each cluster; rising.

    The clusters give one in turn until there are enough, so that what a small cluster lacks comes
    from the others. Which clusters give one more than others is drawn too.
    """
    rng = np.random.default_rng(seed)
    order = rng.permutation(len(labels))
    turn = np.empty(len(labels), np.int64)  # in which round each place is drawn
    for label in np.unique(labels):
        members = order[labels[order] == label]
        turn[members] = np.arange(len(members))
    first = rng.permutation(labels.max() + 1)[labels]
    return np.sort(np.lexsort((first, turn))[:count])
