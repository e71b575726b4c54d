# Copyright 2026 qvggt_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Trajectories: TUM files, and errors against a true one as `evo_ape`/`evo_rpe -as` count them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from evo.core import metrics, sync
from evo.core.trajectory import PoseTrajectory3D
from evo.tools import file_interface
from numpy.typing import NDArray

from qvggt_ros.errors import DatasetError
from qvggt_ros.files import whole_file
from qvggt_ros.reconstruction.geometry import pose_matrix, rotation_from_quaternion

Float64Array = NDArray[np.float64]

MAX_STAMP_DIFFERENCE_S = 0.01  # evo's own default
MIN_POSES = 3  # fewer cannot be aligned


@dataclass(frozen=True)
class TrajectoryError:
    """How far an estimated trajectory is from the true one after a Sim(3) alignment.

    Attributes:
        poses: how many poses were compared.
        ate_rmse_m: root mean square distance of the camera centres, metres.
        ate_scale: the factor that the alignment applied to the estimate.
        rpe_trans_m: root mean square error of the step between consecutive poses, metres.
        rpe_rot_deg: the same for its rotation, degrees.
        path_length_m: of the true trajectory, to put the error into proportion.
        truth_from_map: [4, 4] similarity (scale in the rotation part) of the alignment.

    """

    poses: int
    ate_rmse_m: float
    ate_scale: float
    rpe_trans_m: float
    rpe_rot_deg: float
    path_length_m: float
    truth_from_map: Float64Array


def make_trajectory(stamps_ns: list[int], map_from_camera: Float64Array) -> PoseTrajectory3D:
    """Return evo's trajectory of poses [n, 4, 4] at nanosecond stamps."""
    return PoseTrajectory3D(
        poses_se3=list(np.asarray(map_from_camera, dtype=np.float64)),
        timestamps=np.asarray(stamps_ns, dtype=np.int64) / 1e9,
    )


def matrix_of_pose(pose: Any) -> Float64Array:
    """Return [4, 4] of a geometry_msgs/Pose, as rclpy or rosbags give it."""
    q, p = pose.orientation, pose.position
    return pose_matrix(rotation_from_quaternion([q.x, q.y, q.z, q.w]), [p.x, p.y, p.z])


def write_tum(path: Path, trajectory: PoseTrajectory3D) -> None:
    """Write `timestamp tx ty tz qx qy qz qw` lines; the file appears whole or not at all."""
    with whole_file(path) as file:
        file_interface.write_tum_trajectory_file(file, trajectory)


def trajectory_error(truth: PoseTrajectory3D, estimate: PoseTrajectory3D) -> TrajectoryError:
    """Associate by stamp, align by Umeyama's similarity, and measure.

    Raises:
        DatasetError: fewer than three poses have partners, or the estimate stands still.

    """
    try:
        true, found = sync.associate_trajectories(truth, estimate, max_diff=MAX_STAMP_DIFFERENCE_S)
        if found.num_poses < MIN_POSES:
            raise sync.SyncException(f'only {found.num_poses} poses have the same stamps')
        rotation, translation, scale = found.align(true, correct_scale=True)
    except Exception as error:  # evo raises unrelated classes for what is all bad input
        raise DatasetError(f'trajectories cannot be compared: {error}') from error
    similarity = np.eye(4)
    similarity[:3, :3] = scale * rotation
    similarity[:3, 3] = translation
    return TrajectoryError(
        poses=found.num_poses,
        ate_rmse_m=_rmse(metrics.APE(metrics.PoseRelation.translation_part), true, found),
        ate_scale=float(scale),
        rpe_trans_m=_rmse(_step_error(metrics.PoseRelation.translation_part), true, found),
        rpe_rot_deg=_rmse(_step_error(metrics.PoseRelation.rotation_angle_deg), true, found),
        path_length_m=float(true.path_length),
        truth_from_map=similarity,
    )


def _step_error(relation: metrics.PoseRelation) -> metrics.RPE:
    return metrics.RPE(relation, delta=1, delta_unit=metrics.Unit.frames)


def _rmse(metric: metrics.PE, true: PoseTrajectory3D, found: PoseTrajectory3D) -> float:
    metric.process_data((true, found))
    return float(metric.get_statistic(metrics.StatisticsType.rmse))
