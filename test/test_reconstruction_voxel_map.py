# Copyright 2026 qvggt_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""The voxel map means what it holds, stays within its bound and is deterministic."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qvggt_ros.errors import UsageError
from qvggt_ros.reconstruction.cloud import PointCloud
from qvggt_ros.reconstruction.voxel_map import VoxelMap, VoxelMapConfig


def cloud_of(xyz: list, rgb: list | None = None, confidence: list | None = None) -> PointCloud:
    count = len(xyz)
    return PointCloud(
        np.array(xyz, np.float32).reshape(count, 3),
        np.array(rgb if rgb is not None else [[9, 9, 9]] * count, np.uint8).reshape(count, 3),
        np.array(confidence if confidence is not None else [1] * count, np.float32),
    )


def random_cloud(rng: np.random.Generator, count: int, spread: float) -> PointCloud:
    return PointCloud(
        rng.normal(0, spread, (count, 3)).astype(np.float32),
        rng.integers(0, 256, (count, 3), dtype=np.uint8),
        rng.uniform(1, 5, count).astype(np.float32),
    )


def test_mean_is_weighted_by_confidence_over_insertions() -> None:
    voxels = VoxelMap(VoxelMapConfig(voxel_size=1.0))
    voxels.insert(cloud_of([[0.1, 0.5, 0.5], [0.3, 0.5, 0.5]], [[0, 0, 0], [40, 0, 8]], [1, 1]))
    voxels.insert(cloud_of([[0.8, 0.5, 0.5]], [[120, 0, 4]], [2]))
    cloud = voxels.cloud()
    np.testing.assert_allclose(cloud.xyz, [[0.5, 0.5, 0.5]], rtol=1e-6)
    np.testing.assert_array_equal(cloud.rgb, [[70, 0, 4]])
    np.testing.assert_array_equal(cloud.confidence, [2])


def test_voxels_left_and_right_of_zero_are_two() -> None:
    voxels = VoxelMap(VoxelMapConfig(voxel_size=0.1))
    voxels.insert(cloud_of([[-0.01, 0, 0], [0.01, 0, 0]]))
    assert len(voxels) == 2


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 2**32 - 1), st.lists(st.integers(0, 80), min_size=1, max_size=6))
def test_equal_to_a_dictionary(seed: int, counts: list[int]) -> None:
    rng = np.random.default_rng(seed)
    voxels = VoxelMap(VoxelMapConfig(voxel_size=0.5))
    sums: dict[tuple[int, ...], np.ndarray] = {}
    for count in counts:
        cloud = random_cloud(rng, count, 1.0)
        voxels.insert(cloud)
        for point, weight in zip(cloud.xyz, cloud.confidence, strict=True):
            key = tuple(np.floor(point.astype(np.float64) / 0.5).astype(int))
            sums[key] = sums.get(key, np.zeros(4)) + weight * np.array([*point, 1.0])
    wanted = np.array([sums[key][:3] / sums[key][3] for key in sorted(sums)]).reshape(-1, 3)
    np.testing.assert_allclose(voxels.cloud().xyz, wanted, atol=1e-5)


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 2**32 - 1))
def test_never_more_than_the_bound_and_the_newest_stay(seed: int) -> None:
    rng = np.random.default_rng(seed)
    voxels = VoxelMap(VoxelMapConfig(voxel_size=0.1, max_voxels=100))
    for _ in range(10):
        cloud = random_cloud(rng, 60, 1.0)
        voxels.insert(cloud)
        assert len(voxels) <= 100
        newest = np.unique(np.floor(cloud.xyz.astype(np.float64) / 0.1), axis=0)
        held = np.floor(voxels.cloud().xyz.astype(np.float64) / 0.1)
        missing = {tuple(v) for v in newest} - {tuple(v) for v in held}
        # a mean may leave its voxel by rounding only
        assert len(missing) <= 1
    assert voxels.dropped > 0


def test_longest_unseen_goes_first_then_the_least_confident() -> None:
    voxels = VoxelMap(VoxelMapConfig(voxel_size=1.0, max_voxels=3))
    voxels.insert(cloud_of([[0.5, 0, 0], [1.5, 0, 0]], confidence=[5, 2]))
    voxels.insert(cloud_of([[2.5, 0, 0], [3.5, 0, 0]], confidence=[1, 1]))
    np.testing.assert_array_equal(voxels.cloud().xyz[:, 0], [0.5, 2.5, 3.5])
    voxels.insert(cloud_of([[0.5, 0, 0], [4.5, 0, 0]], confidence=[1, 1]))
    assert voxels.cloud().xyz[:, 0].tolist()[0] == 0.5 and len(voxels) == 3
    assert voxels.dropped == 2


def test_more_voxels_at_once_than_fit_keeps_the_most_confident() -> None:
    voxels = VoxelMap(VoxelMapConfig(voxel_size=1.0, max_voxels=2))
    voxels.insert(cloud_of([[i + 0.5, 0, 0] for i in range(4)], confidence=[1, 9, 3, 9]))
    np.testing.assert_array_equal(voxels.cloud().xyz[:, 0], [1.5, 3.5])


def test_same_input_same_bytes() -> None:
    maps = [VoxelMap(VoxelMapConfig(voxel_size=0.2, max_voxels=500)) for _ in range(2)]
    for voxels in maps:
        rng = np.random.default_rng(4)
        for _ in range(8):
            voxels.insert(random_cloud(rng, 300, 1.0))
    first, second = (voxels.cloud() for voxels in maps)
    assert first.xyz.tobytes() == second.xyz.tobytes()
    assert first.rgb.tobytes() == second.rgb.tobytes()


def test_unusable_points_are_left_out() -> None:
    voxels = VoxelMap(VoxelMapConfig(voxel_size=0.01))
    far = [[np.nan, 0, 0], [np.inf, 0, 0], [1e9, 0, 0], [1, 1, 1], [2, 2, 2]]
    voxels.insert(cloud_of(far, confidence=[1, 1, 1, 0, 3]))
    np.testing.assert_array_equal(voxels.cloud().xyz, [[2, 2, 2]])
    voxels.insert(cloud_of([]))
    assert len(voxels) == 1


def test_clear_empties_and_starts_again() -> None:
    voxels = VoxelMap(VoxelMapConfig(voxel_size=1.0, max_voxels=2))
    voxels.insert(cloud_of([[0, 0, 0], [1, 0, 0], [2, 0, 0]]))
    voxels.clear()
    assert len(voxels) == 0 and voxels.dropped == 0
    voxels.insert(cloud_of([[5, 0, 0]], confidence=[1]))
    np.testing.assert_array_equal(voxels.cloud().confidence, [1])


def test_nonsense_sizes_are_refused() -> None:
    with pytest.raises(UsageError, match='voxel_size'):
        VoxelMap(VoxelMapConfig(voxel_size=0))
