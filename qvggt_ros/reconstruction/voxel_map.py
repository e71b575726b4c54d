# Copyright 2026 qvggt_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""A map of bounded size: one mean point per voxel, the longest unseen dropped first."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from qvggt_ros.errors import UsageError
from qvggt_ros.reconstruction.cloud import PointCloud

# 21 bits per axis in one int64 key: a million voxels to either side of the origin.
_BITS = 21
_HALF_RANGE = 1 << (_BITS - 1)


@dataclass(frozen=True)
class VoxelMapConfig:
    """Size of the map.

    Attributes:
        voxel_size: edge, map units.
        max_voxels: the map never holds more.
        max_weight: at which a voxel's mean stops getting stiffer, so that it follows changes.

    """

    voxel_size: float = 0.02
    max_voxels: int = 200_000
    max_weight: float = 1000.0


class VoxelMap:
    """Confidence-weighted mean position and colour per voxel; the same input, the same map.

    Voxels live in slots that are reused. A sorted index of keys finds them, so that an insertion
    costs the same however long the map has been running once it is full.
    """

    def __init__(self, config: VoxelMapConfig | None = None) -> None:
        self.config = config or VoxelMapConfig()
        if self.config.voxel_size <= 0 or self.config.max_voxels < 1:
            raise UsageError('voxel_size and max_voxels must be positive')
        size = self.config.max_voxels
        self._mean = np.zeros((size, 6), dtype=np.float32)  # x y z r g b
        self._weight = np.zeros(size, dtype=np.float32)
        self._confidence = np.zeros(size, dtype=np.float32)  # largest seen
        self._last_seen = np.zeros(size, dtype=np.int64)
        self.clear()

    def __len__(self) -> int:
        return len(self._keys)

    def clear(self) -> None:
        """Forget everything."""
        self._keys = np.empty(0, dtype=np.int64)
        self._slots = np.empty(0, dtype=np.int64)  # of self._keys, in their order
        self._free = np.arange(self.config.max_voxels, dtype=np.int64)
        self._insertions = 0
        self.dropped = 0  # voxels dropped to stay within max_voxels, in all

    def insert(self, cloud: PointCloud) -> None:
        """Take in points; without those that are not finite, trusted, or near enough for a key."""
        self._insertions += 1
        keys, usable = self._voxel_keys(cloud.xyz)
        usable &= np.isfinite(cloud.confidence) & (cloud.confidence > 0)
        if not usable.any():
            return
        fresh = _aggregate(keys[usable], cloud, usable)
        if len(fresh.keys) > self.config.max_voxels:
            fresh = fresh.best(self.config.max_voxels)
        slots = self._slots_for(fresh.keys)
        before = self._weight[slots]
        share = (fresh.weight / (before + fresh.weight))[:, None]
        self._mean[slots] += share * (fresh.mean - self._mean[slots])
        self._weight[slots] = np.minimum(before + fresh.weight, self.config.max_weight)
        self._confidence[slots] = np.maximum(self._confidence[slots], fresh.confidence)
        self._last_seen[slots] = self._insertions

    def cloud(self) -> PointCloud:
        """Return a copy of the map, ordered by voxel."""
        mean = self._mean[self._slots]
        rgb = np.clip(np.rint(mean[:, 3:]), 0, 255).astype(np.uint8)
        return PointCloud(mean[:, :3].copy(), rgb, self._confidence[self._slots])

    def _voxel_keys(self, xyz: NDArray[np.float32]) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
        cells = np.floor(xyz.astype(np.float64) / self.config.voxel_size)
        inside = np.abs(cells + 0.5) < _HALF_RANGE  # False for NaN too
        usable = np.asarray(inside.all(axis=1))
        index = np.where(usable[:, None], cells, 0).astype(np.int64) + _HALF_RANGE
        keys: NDArray[np.int64] = index @ np.array([1 << 2 * _BITS, 1 << _BITS, 1])
        return keys, usable

    def _slots_for(self, keys: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return the slots of sorted keys, making room and taking fresh slots where needed."""
        position = np.searchsorted(self._keys, keys)
        known = np.zeros(len(keys), dtype=bool)
        inside = position < len(self._keys)
        known[inside] = self._keys[position[inside]] == keys[inside]
        self._last_seen[self._slots[position[known]]] = self._insertions
        missing = keys[~known]
        self._drop_unseen(len(self._keys) + len(missing) - self.config.max_voxels)
        taken, self._free = self._free[: len(missing)], self._free[len(missing) :]
        self._weight[taken] = 0.0
        self._confidence[taken] = 0.0
        place = np.searchsorted(self._keys, missing)
        self._keys = np.insert(self._keys, place, missing)
        self._slots = np.insert(self._slots, place, taken)
        return self._slots[np.searchsorted(self._keys, keys)]

    def _drop_unseen(self, count: int) -> None:
        """Drop the voxels unseen for longest, of those the least confident, then by key."""
        if count <= 0:
            return
        last_seen = self._last_seen[self._slots]
        latest_dropped = np.partition(last_seen, count - 1)[count - 1]
        keep = last_seen >= latest_dropped
        ties = np.flatnonzero(last_seen == latest_dropped)
        by_confidence = np.lexsort((self._keys[ties], self._confidence[self._slots[ties]]))
        keep[ties[by_confidence[: count - np.count_nonzero(~keep)]]] = False
        self._free = np.concatenate([self._free, self._slots[~keep]])
        self._keys, self._slots = self._keys[keep], self._slots[keep]
        self.dropped += count


@dataclass(frozen=True)
class _Aggregated:
    """Points gathered by voxel: sorted keys, weighted means [n, 6], weights, top confidences."""

    keys: NDArray[np.int64]
    mean: NDArray[np.float32]
    weight: NDArray[np.float32]
    confidence: NDArray[np.float32]

    def best(self, count: int) -> _Aggregated:
        """Return the `count` most confident voxels, in the order of keys."""
        chosen = np.sort(np.lexsort((self.keys, -self.confidence))[:count])
        return _Aggregated(
            self.keys[chosen], self.mean[chosen], self.weight[chosen], self.confidence[chosen]
        )


def _aggregate(
    keys: NDArray[np.int64], cloud: PointCloud, usable: NDArray[np.bool_]
) -> _Aggregated:
    order = np.argsort(keys, kind='stable')
    keys = keys[order]
    starts = np.flatnonzero(np.r_[True, keys[1:] != keys[:-1]])
    confidence = cloud.confidence[usable][order]
    columns = np.concatenate([cloud.xyz[usable], cloud.rgb[usable]], axis=1, dtype=np.float64)
    weight = np.add.reduceat(confidence.astype(np.float64), starts)
    total = np.add.reduceat(columns[order] * confidence[:, None], starts, axis=0)
    return _Aggregated(
        keys[starts],
        (total / weight[:, None]).astype(np.float32),
        weight.astype(np.float32),
        np.maximum.reduceat(confidence, starts),
    )
