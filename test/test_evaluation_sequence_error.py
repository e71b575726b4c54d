# Copyright 2026 qvggt_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Trajectory error in the loop: of the truth, of the truth with noise, and of real networks."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch
from oracle_engine import OracleEngine, image_of_frame, world_from_camera
from small_networks import SMALL, SMALL_SIZE, lively

from qvggt_ros.engine.interface import WindowOutput
from qvggt_ros.errors import DatasetError, EngineError, ReconstructionError, UsageError
from qvggt_ros.evaluation.sequence_error import (
    CameraSequence,
    reconstruct,
    sequence_error,
    synthetic_sequence,
)
from qvggt_ros.evaluation.torch_engine import TorchEngine
from qvggt_ros.reconstruction.reconstructor import ReconstructionConfig

KEYS = {
    *('frames', 'windows', 'path_m', 'ate_rmse_m', 'ate_share', 'ate_scale'),
    *('rpe_trans_m', 'rpe_rot_deg', 'inlier_share'),
}
FRAMES = 23


class NoisyOracle(OracleEngine):
    """The oracle with noise on translations, as a share of the scene's size."""

    def window(self, tokens: Sequence[Any]) -> WindowOutput:
        output = super().window(tokens)
        noise = self._rng.normal(0, 0.05, (len(tokens), 3))
        output.pose_enc[1:, :3] += noise[1:].astype(np.float32)
        return output


@pytest.fixture(scope='module')
def oracle_sequence() -> CameraSequence:
    return CameraSequence(
        images=np.stack([image_of_frame(index) for index in range(FRAMES)]),
        world_from_camera=np.stack([world_from_camera(index) for index in range(FRAMES)]),
        stamps_ns=[10**17 + 100_000_000 * index for index in range(FRAMES)],
    )


@pytest.fixture(scope='module')
def drive() -> CameraSequence:
    height, width = SMALL_SIZE
    return synthetic_sequence(10_093, 8, width, height, rate_hz=2.0, samples=1)


def test_the_truth_has_no_error(oracle_sequence: CameraSequence) -> None:
    seen: list[int] = []
    figures = sequence_error(OracleEngine(), oracle_sequence, progress=seen.append)
    assert set(figures) == KEYS
    assert figures['frames'] == FRAMES and seen == list(range(1, FRAMES + 1))
    # Windows of 4 frames, 2 of them new; the last frame alone completes the 11th.
    assert figures['windows'] == 11
    assert figures['ate_share'] < 1e-4 and figures['ate_rmse_m'] < 1e-4
    assert figures['rpe_trans_m'] < 1e-4 and figures['rpe_rot_deg'] < 0.01
    steps = np.diff(oracle_sequence.world_from_camera[:, :3, 3], axis=0)
    assert figures['path_m'] == pytest.approx(np.linalg.norm(steps, axis=1).sum())
    assert figures['inlier_share'] == 1


def test_noise_shows(oracle_sequence: CameraSequence) -> None:
    figures = sequence_error(NoisyOracle(), oracle_sequence)
    assert 0.01 < figures['ate_rmse_m'] < 0.5
    assert figures['ate_share'] == pytest.approx(figures['ate_rmse_m'] / figures['path_m'])
    assert figures['rpe_trans_m'] > 0.01


def test_the_window_can_be_chosen(oracle_sequence: CameraSequence) -> None:
    config = ReconstructionConfig(window_frames=6, stride=5)
    figures = sequence_error(OracleEngine(), oracle_sequence, config)
    assert figures['windows'] == 5 and figures['ate_share'] < 1e-4


def test_a_sequence_too_short_to_align_is_refused(oracle_sequence: CameraSequence) -> None:
    for count in (0, 2):
        short = CameraSequence(
            oracle_sequence.images[:count],
            oracle_sequence.world_from_camera[:count],
            oracle_sequence.stamps_ns[:count],
        )
        with pytest.raises(DatasetError, match=f'sequence of {count} frames'):
            sequence_error(OracleEngine(), short)


def test_intrinsics_that_are_not_there_cannot_be_used(oracle_sequence: CameraSequence) -> None:
    with pytest.raises(UsageError, match='no intrinsics'):
        sequence_error(OracleEngine(), oracle_sequence, calibrated=True)


def test_a_room_to_train_on_is_refused() -> None:
    with pytest.raises(UsageError, match='room 9999'):
        synthetic_sequence(9999, 4, 64, 48)


def test_a_drive_has_images_poses_and_stamps(drive: CameraSequence) -> None:
    height, width = SMALL_SIZE
    assert drive.images.shape == (8, height, width, 3) and drive.images.dtype == np.uint8
    assert drive.stamps_ns == [500_000_000 * index for index in range(8)]
    turns = drive.world_from_camera[:, :3, :3]
    np.testing.assert_allclose(
        turns @ turns.transpose(0, 2, 1), np.tile(np.eye(3), (8, 1, 1)), atol=1e-5
    )
    # The world is metric and has z up: the camera rides about a metre above the floor.
    assert np.all(
        (drive.world_from_camera[:, 2, 3] > 0.7) & (drive.world_from_camera[:, 2, 3] < 1.4)
    )
    assert drive.intrinsics is not None and drive.intrinsics[0, 0, 2] == width / 2


def test_a_network_runs_in_the_loop_the_same_each_time(drive: CameraSequence) -> None:
    engine = TorchEngine(lively(SMALL), window_frames=3)
    first, again = (sequence_error(engine, drive) for _ in range(2))
    assert first == again and first['frames'] == 8
    assert all(np.isfinite(value) for value in first.values())
    # An untrained network is nowhere near.
    assert first['ate_share'] > 0.01


def test_known_intrinsics_reach_the_poses(drive: CameraSequence) -> None:
    engine = TorchEngine(lively(SMALL), window_frames=3)
    for calibrated in (True, False):
        poses = [p for r in reconstruct(engine, drive, calibrated=calibrated) for p in r.poses]
        assert drive.intrinsics is not None
        near = np.allclose(poses[0].intrinsics, drive.intrinsics[0], atol=1e-3)
        assert near is calibrated


def test_the_engine_computes_what_the_network_computes(drive: CameraSequence) -> None:
    model = lively(SMALL)
    engine = TorchEngine(model, window_frames=3)
    images = drive.images[:3].transpose(0, 3, 1, 2).astype(np.float32) / 255
    window = engine.window(engine.encode(images))
    depth, confidence = engine.depth(window, [2, 0])
    with torch.inference_mode():
        out = model(torch.from_numpy(images)[None])
    np.testing.assert_allclose(window.pose_enc, out['pose_enc'][0], atol=1e-5)
    np.testing.assert_allclose(depth, out['depth'][0, [2, 0], ..., 0], rtol=1e-4)
    np.testing.assert_allclose(confidence, out['depth_conf'][0, [2, 0]], rtol=1e-4)
    assert engine.depth(window, [])[0].shape == (0, *SMALL_SIZE)


def test_another_image_size_than_the_networks_own() -> None:
    engine = TorchEngine(lively(SMALL), window_frames=2, size=(35, 42))
    assert (engine.manifest.image_height, engine.manifest.image_width) == (35, 42)
    window = engine.window(engine.encode(np.zeros((2, 3, 35, 42), np.float32)))
    assert engine.depth(window, [1])[0].shape == (1, 35, 42)


def test_what_an_engine_cannot_do_is_refused() -> None:
    model = lively(SMALL)
    with pytest.raises(UsageError, match='window_frames 0'):
        TorchEngine(model, 0)
    with pytest.raises(UsageError, match='patch size'):
        TorchEngine(model, 2, size=(28, 36))
    engine = TorchEngine(model, 2)
    with pytest.raises(EngineError, match='images: float64'):
        engine.encode(np.zeros((1, 3, *SMALL_SIZE)))  # type: ignore[arg-type]
    with pytest.raises(EngineError, match='at least one frame'):
        engine.window([])
    window = engine.window(engine.encode(np.zeros((2, 3, *SMALL_SIZE), np.float32)))
    with pytest.raises(EngineError, match='frame 2'):
        engine.depth(window, [2])


def test_a_network_that_is_not_finite_is_refused(drive: CameraSequence) -> None:
    model = lively(SMALL)
    with torch.no_grad():
        model.camera_head.pose_branch.fc2.bias.fill_(float('nan'))
    with pytest.raises(ReconstructionError, match='NaN'):
        sequence_error(TorchEngine(model, 3), drive)
