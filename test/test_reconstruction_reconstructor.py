# Copyright 2026 qvggt_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Frames through the whole reconstruction, with an engine that knows the truth."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from oracle_engine import (
    FOV_W_RAD,
    ROOM_HALF_SIZE_M,
    OracleEngine,
    OracleManifest,
    image_of_frame,
    world_from_camera,
)

from qvggt_ros.engine.interface import WindowOutput
from qvggt_ros.errors import ImageError, ReconstructionError, UsageError
from qvggt_ros.reconstruction.geometry import BODY_FROM_OPTICAL, invert_pose, rotation_angle
from qvggt_ros.reconstruction.reconstructor import (
    STAGES,
    Frame,
    FramePose,
    ReconstructionConfig,
    Reconstructor,
    WindowResult,
)

NS = 1_700_000_000_123_456_789


def run(
    reconstructor: Reconstructor, count: int, **frame_arguments: Any
) -> tuple[list[WindowResult], list[FramePose]]:
    results = []
    for index in range(count):
        frame = Frame(image_of_frame(index), NS + index, 'optical', **frame_arguments)
        result = reconstructor.add_frame(frame)
        if result:
            results.append(result)
    result = reconstructor.flush()
    if result:
        results.append(result)
    return results, [pose for result in results for pose in result.poses]


def true_map_from_camera(index: int) -> np.ndarray:
    return BODY_FROM_OPTICAL @ invert_pose(world_from_camera(0)) @ world_from_camera(index)


@pytest.mark.parametrize(
    ('size', 'stride', 'anchors'), [(4, 2, 2), (4, 3, 1), (6, 1, 9), (2, 1, 1)]
)
@pytest.mark.parametrize('count', [1, 3, 21])
def test_every_frame_gets_its_true_pose(size: int, stride: int, anchors: int, count: int) -> None:
    config = ReconstructionConfig(stride=stride, anchor_frames=anchors)
    engine = OracleEngine(OracleManifest(window_frames=size))
    _, poses = run(Reconstructor(engine, config), count)
    assert [pose.stamp_ns for pose in poses] == [NS + i for i in range(count)]
    assert {pose.frame_id for pose in poses} == {'optical'}
    for index, pose in enumerate(poses):
        np.testing.assert_allclose(pose.map_from_camera, true_map_from_camera(index), atol=1e-4)
    assert engine.encoded == count


def test_scales_of_the_windows_are_undone() -> None:
    results, _ = run(Reconstructor(OracleEngine(scales=(1.0, 0.5, 2.0))), 12)
    np.testing.assert_allclose([r.scale for r in results], [1, 2, 0.5, 1, 2], rtol=1e-5)
    assert all(r.residual < 1e-4 and r.inlier_share == 1 for r in results)
    assert [r.index for r in results] == [0, 1, 2, 3, 4]


def test_points_lie_on_the_walls_and_have_their_frames_colours() -> None:
    config = ReconstructionConfig(drop_confidence_share=0)
    results, _ = run(Reconstructor(OracleEngine(), config), 8)
    world_from_map = world_from_camera(0) @ invert_pose(BODY_FROM_OPTICAL)
    for result in results:
        in_world = result.cloud.xyz @ world_from_map[:3, :3].T + world_from_map[:3, 3]
        from_wall = np.abs(ROOM_HALF_SIZE_M - np.abs(in_world)).min(axis=1)
        assert from_wall.max() < 1e-3
        numbers = {int(pose.stamp_ns - NS) for pose in result.poses}
        assert set(result.cloud.rgb[:, 0].tolist()) == numbers
        assert (result.cloud.rgb[:, 2] == 128).all()
        assert result.cloud.xyz.dtype == np.float32 and result.cloud.rgb.dtype == np.uint8
        assert len(result.cloud) > 0.8 * 112 * 84 * len(numbers)


def test_noise_drifts_little_over_a_hundred_windows() -> None:
    engine = OracleEngine(depth_noise=0.03)
    _, poses = run(Reconstructor(engine), 200)
    errors = [
        np.linalg.norm(pose.map_from_camera[:3, 3] - true_map_from_camera(i)[:3, 3])
        for i, pose in enumerate(poses)
    ]
    assert max(errors) < 0.15  # of a room of 6 m
    last = poses[-1].map_from_camera[:3, :3] @ true_map_from_camera(199)[:3, :3].T
    assert rotation_angle(last) < 0.05


class PartialEngine(OracleEngine):
    """Sees each frame of a window a little nearer than the one before, and notes its windows."""

    def __init__(self) -> None:
        super().__init__(scales=(1.0,))
        self.seen: list[list[int]] = []

    def window(self, tokens: Sequence[Any]) -> WindowOutput:
        self.seen.append(list(tokens))
        return super().window(tokens)

    def depth(self, window: WindowOutput, frames: Sequence[int]) -> Any:
        depth, confidence = super().depth(window, frames)
        return depth * np.float32(0.98) ** np.reshape(frames, (-1, 1, 1)), confidence


def test_what_depends_on_a_frames_place_cancels_where_every_second_window_runs_backwards() -> None:
    engine = PartialEngine()
    results, _ = run(Reconstructor(engine), 40)
    assert engine.seen[:3] == [[0, 1, 2, 3], [5, 4, 3, 2], [4, 5, 6, 7]]
    np.testing.assert_allclose([r.scale for r in results], 1, rtol=1e-3)
    engine = PartialEngine()
    results, _ = run(Reconstructor(engine, ReconstructionConfig(alternate_order=False)), 40)
    assert engine.seen[:2] == [[0, 1, 2, 3], [2, 3, 4, 5]]
    assert results[-1].scale == pytest.approx(0.98 ** (2 * (len(results) - 1)), rel=1e-2)


def test_depth_is_decoded_for_new_frames_and_anchors_only() -> None:
    engine = OracleEngine(OracleManifest(window_frames=8))
    results, _ = run(Reconstructor(engine, ReconstructionConfig(stride=2, anchor_frames=2)), 16)
    assert len(results) == 5
    assert engine.decoded_depths == 8 + 4 * (2 + 2)


def test_flush_completes_a_short_recording_and_does_nothing_twice() -> None:
    reconstructor = Reconstructor(OracleEngine())
    reconstructor.add_frame(Frame(image_of_frame(0), NS, 'optical'))
    result = reconstructor.flush()
    assert result is not None and len(result.poses) == 1
    np.testing.assert_allclose(result.poses[0].map_from_camera, BODY_FROM_OPTICAL, atol=1e-6)
    assert reconstructor.flush() is None


def test_all_stages_are_timed() -> None:
    results, _ = run(Reconstructor(OracleEngine()), 6)
    for result in results:
        assert set(result.stage_ms) == set(STAGES)
        assert all(ms >= 0 for ms in result.stage_ms.values())


def test_max_points_thins_the_grid() -> None:
    config = ReconstructionConfig(max_points=3000)
    results, _ = run(Reconstructor(OracleEngine(), config), 8)
    assert all(0 < len(result.cloud) <= 3000 for result in results)


def test_least_confident_points_are_dropped() -> None:
    class Unsure(OracleEngine):
        def depth(self, window: WindowOutput, frames: Sequence[int]) -> tuple[Any, Any]:
            depth, confidence = super().depth(window, frames)
            confidence[:] = np.linspace(1, 5, confidence.shape[2], dtype=np.float32)
            return depth, confidence

    config = ReconstructionConfig(drop_confidence_share=0.25, min_confidence=1.0)
    results, _ = run(Reconstructor(Unsure(), config), 4)
    lowest = float(results[0].cloud.confidence.min())
    assert lowest == pytest.approx(2, abs=0.05)


def test_calibrated_intrinsics_replace_the_predicted_ones() -> None:
    class WrongFov(OracleEngine):
        def window(self, tokens: Sequence[Any]) -> WindowOutput:
            output = super().window(tokens)
            output.pose_enc[:, 7:] *= 0.8
            return output

    focal = 56 / np.tan(FOV_W_RAD / 2)
    k = np.array([[focal, 0, 56], [0, focal, 42], [0, 0, 1]])
    calibrated, poses = run(Reconstructor(WrongFov()), 6, intrinsics=k)
    predicted, _ = run(Reconstructor(WrongFov()), 6)
    truth, _ = run(Reconstructor(OracleEngine()), 6)
    np.testing.assert_allclose(calibrated[0].cloud.xyz, truth[0].cloud.xyz, atol=1e-4)
    assert np.abs(predicted[0].cloud.xyz - truth[0].cloud.xyz).max() > 0.1
    np.testing.assert_allclose(poses[-1].intrinsics, k, atol=1e-9)


def test_calibration_follows_the_resize_and_the_crop() -> None:
    """A camera of another size and aspect, twice as fine: its K lands on the engine's pixels."""
    focal = 56 / np.tan(FOV_W_RAD / 2)
    # engine pixel u' = (u + 0.5) / 2 - 0.5 - 21 after a resize by half and 21 columns cut
    k = np.array([[2 * focal, 0, 2 * (56 + 21 + 0.5) - 0.5], [0, 2 * focal, 84.5], [0, 0, 1]])
    reconstructor = Reconstructor(OracleEngine())
    results = [
        reconstructor.add_frame(Frame(image_of_frame(i, 308, 168), NS + i, 'optical', k))
        for i in range(4)
    ]
    truth, _ = run(Reconstructor(OracleEngine()), 4)
    assert results[3] is not None
    np.testing.assert_allclose(results[3].cloud.xyz, truth[0].cloud.xyz, atol=1e-4)


def test_filled_borders_give_no_points() -> None:
    config = ReconstructionConfig(preprocess_mode='pad', drop_confidence_share=0)
    reconstructor = Reconstructor(OracleEngine(), config)
    results = [
        reconstructor.add_frame(Frame(image_of_frame(i, 112, 56), NS + i, 'optical'))
        for i in range(4)
    ]
    assert results[3] is not None
    assert 0 < len(results[3].cloud) <= 4 * 112 * 56
    assert not (results[3].cloud.rgb == 255).all(axis=1).any()


@pytest.mark.parametrize('what', ['pose_enc', 'depth', 'confidence'])
def test_engine_that_returns_nan_is_told_and_reset_goes_on(what: str) -> None:
    class Broken(OracleEngine):
        broken = True

        def window(self, tokens: Sequence[Any]) -> WindowOutput:
            output = super().window(tokens)
            if what == 'pose_enc' and self.broken:
                output.pose_enc[1, 0] = np.nan
            return output

        def depth(self, window: WindowOutput, frames: Sequence[int]) -> tuple[Any, Any]:
            depth, confidence = super().depth(window, frames)
            if self.broken and what != 'pose_enc':
                (depth if what == 'depth' else confidence)[0, 3, 4] = np.nan
            return depth, confidence

    engine = Broken()
    reconstructor = Reconstructor(engine)
    with pytest.raises(ReconstructionError, match='NaN or infinity'):
        run(reconstructor, 4)
    engine.broken = False
    reconstructor.reset()
    _, poses = run(reconstructor, 6)
    assert len(poses) == 6


def test_clamped_field_of_view_is_noted() -> None:
    class NoFov(OracleEngine):
        def window(self, tokens: Sequence[Any]) -> WindowOutput:
            output = super().window(tokens)
            output.pose_enc[:, 8] = 0
            return output

    results, _ = run(Reconstructor(NoFov()), 6)
    assert all('field of view' in result.notes[0] for result in results)
    assert all(np.isfinite(result.cloud.xyz).all() for result in results)


def test_size_change_needs_a_reset() -> None:
    reconstructor = Reconstructor(OracleEngine())
    reconstructor.add_frame(Frame(image_of_frame(0), NS, 'optical'))
    other = Frame(image_of_frame(1, 224, 168), NS + 1, 'optical')
    with pytest.raises(ImageError, match='224x168 after 112x84'):
        reconstructor.add_frame(other)
    reconstructor.reset()
    assert reconstructor.add_frame(other) is None


def test_reset_starts_a_new_map() -> None:
    reconstructor = Reconstructor(OracleEngine())
    first, _ = run(reconstructor, 5)
    reconstructor.reset()
    second, poses = run(reconstructor, 5)
    assert [r.index for r in second] == [0, 1] and second[0].scale == 1
    assert len(poses) == 5
    np.testing.assert_allclose(poses[0].map_from_camera, BODY_FROM_OPTICAL, atol=1e-6)
    assert first[0].poses[0].stamp_ns == poses[0].stamp_ns


def test_buffers_hold_one_window() -> None:
    reconstructor = Reconstructor(OracleEngine())
    run(reconstructor, 50)
    assert len(reconstructor._window.frames) == reconstructor.window_frames == 4


@pytest.mark.parametrize(
    'config', [ReconstructionConfig(stride=4), ReconstructionConfig(anchor_frames=0)]
)
def test_configuration_that_does_not_fit_is_refused(config: ReconstructionConfig) -> None:
    with pytest.raises(UsageError):
        Reconstructor(OracleEngine(), config)


def test_the_room_loads_neither_ros_nor_torch() -> None:
    code = (
        'import sys, qvggt_ros.reconstruction.reconstructor, qvggt_ros.reconstruction.voxel_map, '
        'qvggt_ros.reconstruction.keyframes\n'
        'heavy = {"rclpy", "torch", "onnx", "scipy", "matplotlib"} & set(sys.modules)\n'
        'sys.exit(f"loaded {heavy}" if heavy else 0)'
    )
    subprocess.run([sys.executable, '-c', code], check=True)
