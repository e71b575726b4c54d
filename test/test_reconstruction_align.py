# Copyright 2026 qvggt_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""A window finds its place in the map: exactly, with noise, with outliers, and when it cannot."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qvggt_ros.errors import ReconstructionError
from qvggt_ros.reconstruction.align import (
    AlignmentConfig,
    SharedFrame,
    align_window,
    depth_ratio_scale,
    weighted_median,
)
from qvggt_ros.reconstruction.geometry import (
    Sim3,
    pose_matrix,
    rotation_angle,
    rotation_from_quaternion,
    transform_points,
)

POINT_COUNT = 500
FROM_POINTS = AlignmentConfig(rigid_from='points')
BOTH = pytest.mark.parametrize('config', [AlignmentConfig(), FROM_POINTS], ids=['poses', 'points'])


def shared_frame(
    truth: Sim3,
    rng: np.random.Generator,
    map_noise: float = 0.0,
    window_noise: float = 0.0,
    in_camera: np.ndarray | None = None,
) -> SharedFrame:
    """Return one frame whose window lies at `truth` in the map; noise is relative, on depth."""
    if in_camera is None:
        depth = rng.uniform(1, 4, POINT_COUNT)
        in_camera = (
            depth[:, None] * np.c_[rng.uniform(-0.7, 0.7, (POINT_COUNT, 2)), np.ones(POINT_COUNT)]
        )
    window_pose = pose_matrix(rotation_from_quaternion(rng.normal(size=4)), rng.normal(size=3))
    map_pose = truth.apply_pose(window_pose)
    for_map = in_camera * np.exp(rng.normal(0, map_noise, len(in_camera)))[:, None] * truth.scale
    for_window = in_camera * np.exp(rng.normal(0, window_noise, len(in_camera)))[:, None]
    ones = np.ones(len(in_camera))
    return SharedFrame(
        map_points=transform_points(map_pose, for_map),
        map_depth=for_map[:, 2],
        map_confidence=2 * ones,
        map_from_camera=map_pose,
        window_points=transform_points(window_pose, for_window),
        window_depth=for_window[:, 2],
        window_confidence=3 * ones,
        window_from_camera=window_pose,
    )


def random_sim3(rng: np.random.Generator) -> Sim3:
    scale = float(np.exp(rng.normal()))
    return Sim3(scale, rotation_from_quaternion(rng.normal(size=4)), rng.normal(size=3))


@BOTH
@settings(deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(1, 3))
def test_exact_frames_give_the_exact_similarity(
    config: AlignmentConfig, seed: int, frame_count: int
) -> None:
    rng = np.random.default_rng(seed)
    truth = random_sim3(rng)
    result = align_window([shared_frame(truth, rng) for _ in range(frame_count)], config)
    found = result.map_from_window
    assert found.scale == pytest.approx(truth.scale, rel=1e-9)
    np.testing.assert_allclose(found.rotation, truth.rotation, atol=1e-8)
    np.testing.assert_allclose(found.translation, truth.translation, atol=1e-7 * (1 + truth.scale))
    assert result.residual < 1e-8 and result.inlier_share == 1 and not result.fallback
    assert result.point_count == frame_count * POINT_COUNT


def test_scale_does_not_shrink_with_noise() -> None:
    """Over many noisy windows the mean log scale is 0, so that a chain does not collapse."""
    rng = np.random.default_rng(1)
    truth = Sim3.identity()
    logs = []
    for _ in range(60):
        result = align_window([shared_frame(truth, rng, map_noise=0.1, window_noise=0.1)])
        logs.append(np.log(result.map_from_window.scale))
    # Umeyama's least squares would give about -0.03 here; one estimate varies by about 0.01.
    assert abs(np.mean(logs)) < 4 * np.std(logs) / np.sqrt(len(logs)) < 0.006


@BOTH
def test_a_third_of_outliers_does_no_harm(config: AlignmentConfig) -> None:
    rng = np.random.default_rng(2)
    truth = random_sim3(rng)
    frame = shared_frame(truth, rng, window_noise=0.01)
    wrong = rng.random(POINT_COUNT) < 0.33
    points = np.where(wrong[:, None], rng.normal(0, 5, (POINT_COUNT, 3)), frame.window_points)
    depth = np.where(wrong, rng.uniform(0.5, 10, POINT_COUNT), frame.window_depth)
    wrong_frame = dataclasses.replace(frame, window_points=points, window_depth=depth)
    result = align_window([wrong_frame], config)
    assert result.map_from_window.scale == pytest.approx(truth.scale, rel=0.02)
    assert rotation_angle(result.map_from_window.rotation @ truth.rotation.T) < 0.02
    assert 0.55 < result.inlier_share < 0.75


def test_confident_points_win() -> None:
    rng = np.random.default_rng(3)
    truth = random_sim3(rng)
    frame = shared_frame(truth, rng)
    wrong = np.arange(POINT_COUNT) < 0.6 * POINT_COUNT
    depth = np.where(wrong, 2 * frame.window_depth, frame.window_depth)
    confidence = np.where(wrong, 1.0, 20.0)
    changed = dataclasses.replace(frame, window_depth=depth, window_confidence=confidence)
    assert align_window([changed]).map_from_window.scale == pytest.approx(truth.scale)


def test_bad_fit_shows_in_residual_and_inlier_share() -> None:
    rng = np.random.default_rng(4)
    good = align_window([shared_frame(Sim3.identity(), rng, window_noise=0.01)])
    bad = align_window([shared_frame(Sim3.identity(), rng, window_noise=0.3)])
    assert good.residual < 0.02 < 0.1 < bad.residual
    assert bad.inlier_share < 0.5 < 0.95 < good.inlier_share


def test_points_that_are_not_valid_are_left_out() -> None:
    rng = np.random.default_rng(5)
    truth = random_sim3(rng)
    frame = shared_frame(truth, rng)
    frame.window_depth[:50] = np.nan
    frame.window_points[50:100] = np.inf
    frame.map_depth[100:150] = -1
    frame.map_confidence[150:200] = 0
    result = align_window([frame])
    assert result.point_count == POINT_COUNT - 200
    assert result.map_from_window.scale == pytest.approx(truth.scale)


def test_points_on_a_line_fall_back_to_the_pose_and_say_so() -> None:
    rng = np.random.default_rng(6)
    truth = random_sim3(rng)
    on_line = np.linspace(1, 3, POINT_COUNT)[:, None] * np.array([0.1, 0.2, 1.0])
    result = align_window([shared_frame(truth, rng, in_camera=on_line)], FROM_POINTS)
    assert 'line' in result.fallback
    np.testing.assert_allclose(result.map_from_window.rotation, truth.rotation, atol=1e-9)
    np.testing.assert_allclose(result.map_from_window.translation, truth.translation, atol=1e-9)


def test_one_point_many_times_falls_back_too() -> None:
    rng = np.random.default_rng(7)
    truth = random_sim3(rng)
    same = np.tile([0.3, 0.1, 2.0], (POINT_COUNT, 1))
    result = align_window([shared_frame(truth, rng, in_camera=same)], FROM_POINTS)
    assert result.fallback and np.isfinite(result.map_from_window.translation).all()


def turned(frame: SharedFrame, angle_rad: float, rng: np.random.Generator) -> SharedFrame:
    """Return the frame with its window pose turned about the camera's centre; depths stay."""
    axis = rng.normal(size=3)
    half = angle_rad / 2
    quaternion = np.r_[np.sin(half) * axis / np.linalg.norm(axis), np.cos(half)]
    pose = frame.window_from_camera.copy()
    pose[:3, :3] = pose[:3, :3] @ rotation_from_quaternion(quaternion)
    return dataclasses.replace(frame, window_from_camera=pose)


def test_errors_of_the_shared_poses_are_averaged() -> None:
    rng = np.random.default_rng(11)
    errors = []
    for count in (1, 4):
        found = []
        for _ in range(50):
            truth = random_sim3(rng)
            frames = [turned(shared_frame(truth, rng), 0.05, rng) for _ in range(count)]
            rotation = align_window(frames).map_from_window.rotation
            found.append(rotation_angle(rotation @ truth.rotation.T))
        errors.append(np.mean(found))
    assert errors[0] == pytest.approx(0.05, rel=1e-6)
    assert errors[1] < 0.03  # four random axes: about half


def test_depth_noise_does_not_turn_a_window_that_is_tied_by_poses() -> None:
    rng = np.random.default_rng(12)
    truth = random_sim3(rng)
    frames = [shared_frame(truth, rng, map_noise=0.1, window_noise=0.1) for _ in range(2)]
    by_poses, by_points = (
        rotation_angle(align_window(frames, config).map_from_window.rotation @ truth.rotation.T)
        for config in (AlignmentConfig(), FROM_POINTS)
    )
    assert by_poses < 1e-6 < 1e-3 < by_points


def test_too_few_points_are_refused() -> None:
    frame = shared_frame(Sim3.identity(), np.random.default_rng(8))
    frame.window_confidence[10:] = 0
    with pytest.raises(ReconstructionError, match="only 10 of the shared frames' points"):
        align_window([frame])


def test_no_overlap_is_refused() -> None:
    with pytest.raises(ReconstructionError, match='overlap'):
        align_window([])


def test_scale_beyond_reason_is_refused() -> None:
    frame = shared_frame(Sim3(1e5, np.eye(3), np.zeros(3)), np.random.default_rng(9))
    with pytest.raises(ReconstructionError, match='beyond reason'):
        align_window([frame])


def test_depth_ratio_is_symmetric() -> None:
    rng = np.random.default_rng(10)
    a, b, weight = rng.uniform(1, 2, (3, 101))
    assert depth_ratio_scale(a, b, weight) == pytest.approx(1 / depth_ratio_scale(b, a, weight))


def test_weighted_median_by_hand() -> None:
    assert weighted_median(np.array([5.0, 1.0, 3.0]), np.ones(3)) == 3
    assert weighted_median(np.array([5.0, 1.0, 3.0]), np.array([10.0, 1.0, 1.0])) == 5
