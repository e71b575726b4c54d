# Copyright 2026 qvggt_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Trajectory error of an engine in the loop: a drive through the whole reconstruction."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from qvggt_ros.engine import Engine
from qvggt_ros.errors import DatasetError, UsageError
from qvggt_ros.evaluation.trajectory import MIN_POSES, make_trajectory, trajectory_error
from qvggt_ros.reconstruction.frames import Frame, FramePose, WindowResult
from qvggt_ros.reconstruction.geometry import invert_pose
from qvggt_ros.reconstruction.reconstructor import ReconstructionConfig, Reconstructor
from qvggt_ros.synthetic.seeds import TEST_SEEDS_FROM

Float64Array = NDArray[np.float64]

NS_PER_S = 1_000_000_000


@dataclass(frozen=True)
class CameraSequence:
    """A recording with known camera poses, held in memory.

    Attributes:
        images: uint8 [n, h, w, 3] RGB, pinhole, undistorted.
        world_from_camera: [n, 4, 4] of the optical frames, metres.
        stamps_ns: rising, one for each image.
        intrinsics: [n, 3, 3] of the images, pixels (OpenCV), for networks that are to be given
            them; None if they are not known.

    """

    images: NDArray[np.uint8]
    world_from_camera: Float64Array
    stamps_ns: list[int]
    intrinsics: Float64Array | None = None


def synthetic_sequence(
    seed: int, frames: int, width: int, height: int, rate_hz: float = 10.0, samples: int = 2
) -> CameraSequence:
    """Render a drive through the room of a seed; see `synthetic.drive.plan_drive`.

    Args:
        seed: of the room, from `TEST_SEEDS_FROM` up.
        frames: images.
        width: of the images, pixels.
        height: of the images, pixels.
        rate_hz: frames per second.
        samples: per pixel and axis.

    Raises:
        UsageError: a number that is not positive, or a seed that is not kept for tests.

    """
    from qvggt_ros.synthetic.drive import render_trajectory

    if seed < TEST_SEEDS_FROM:
        raise UsageError(
            f'room {seed}: test rooms have seeds from {TEST_SEEDS_FROM} up; '
            'the others may have been trained on'
        )
    drive = render_trajectory(seed, frames, width, height, rate_hz, samples=samples)
    return CameraSequence(
        images=drive.images[0].permute(0, 2, 3, 1).contiguous().numpy(),
        world_from_camera=invert_pose(drive.camera_from_world[0].double().numpy()),
        stamps_ns=[round(stamp * NS_PER_S) for stamp in drive.stamp_s[0].tolist()],
        intrinsics=drive.intrinsics[0].double().numpy(),
    )


def sequence_error(
    engine: Engine,
    sequence: CameraSequence,
    config: ReconstructionConfig | None = None,
    calibrated: bool = False,
    progress: Callable[[int], None] | None = None,
) -> dict[str, float]:
    """Reconstruct a sequence, frame by frame as the node does, and compare the trajectories.

    Args:
        engine: a bundle's, or a `TorchEngine`.
        sequence: images and true poses.
        config: of the reconstruction.
        calibrated: give the reconstruction the sequence's intrinsics.
        progress: called with the number of frames done.

    Returns:
        frames, windows; path_m: length of the true trajectory, metres; after one similarity
        alignment (Umeyama, by evo) ate_rmse_m: metres, ate_share: the same as a share of path_m,
        ate_scale: the alignment's factor, and between consecutive frames rpe_trans_m: metres and
        rpe_rot_deg: degrees, both root mean squares; inlier_share: the least of any window's
        alignment to the map.

    Raises:
        UsageError: `calibrated`, but the sequence has no intrinsics.
        DatasetError: fewer than three frames, or a truth or an estimate that stands still.
        ReconstructionError: the engine's output is not finite.

    """
    count = len(sequence.images)
    if count < MIN_POSES:
        raise DatasetError(f'sequence of {count} frames: must have at least {MIN_POSES}')
    results = reconstruct(engine, sequence, config, calibrated, progress)
    poses: list[FramePose] = [pose for result in results for pose in result.poses]
    error = trajectory_error(
        make_trajectory(sequence.stamps_ns, sequence.world_from_camera),
        make_trajectory(
            [pose.stamp_ns for pose in poses], np.stack([pose.map_from_camera for pose in poses])
        ),
    )
    return {
        'frames': error.poses,
        'windows': len(results),
        'path_m': error.path_length_m,
        'ate_rmse_m': error.ate_rmse_m,
        'ate_share': error.ate_rmse_m / error.path_length_m,
        'ate_scale': error.ate_scale,
        'rpe_trans_m': error.rpe_trans_m,
        'rpe_rot_deg': error.rpe_rot_deg,
        'inlier_share': min(result.inlier_share for result in results),
    }


def reconstruct(
    engine: Engine,
    sequence: CameraSequence,
    config: ReconstructionConfig | None = None,
    calibrated: bool = False,
    progress: Callable[[int], None] | None = None,
) -> list[WindowResult]:
    """Run every frame of a sequence through the reconstruction; see `sequence_error`."""
    reconstructor = Reconstructor(engine, config)
    known = sequence.intrinsics if calibrated else None
    if calibrated and known is None:
        raise UsageError('calibrated: this sequence has no intrinsics')
    results = []
    for index, image in enumerate(sequence.images):
        intrinsics = None if known is None else known[index]
        frame = Frame(image, sequence.stamps_ns[index], 'camera', intrinsics)
        results.append(reconstructor.add_frame(frame))
        if progress:
            progress(index + 1)
    results.append(reconstructor.flush())
    return [result for result in results if result is not None]
