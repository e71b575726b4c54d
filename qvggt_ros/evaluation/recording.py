# Copyright 2026 qvggt_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""What a report needs of a recording: how many frames, some of them, and the truth if it is there.

Truth is a pose topic of the camera's optical frame (PoseStamped, PoseWithCovarianceStamped or
Odometry) and, for the true room, depth images of the same stamps.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from evo.core.trajectory import PoseTrajectory3D
from numpy.typing import NDArray

from qvggt_ros.evaluation.demo_report import DrawnCloud
from qvggt_ros.evaluation.trajectory import make_trajectory, matrix_of_pose
from qvggt_ros.node.bag_reader import COMPRESSED_TYPE, BagReader
from qvggt_ros.node.image_conversion import rgb_from_message

TRUTH_TOPIC = '/ground_truth/pose'
TRUE_DEPTH_TOPIC = '/ground_truth/depth'
POSE_TYPES = {
    'geometry_msgs/msg/PoseStamped': lambda message: message.pose,
    'geometry_msgs/msg/PoseWithCovarianceStamped': lambda message: message.pose.pose,
    'nav_msgs/msg/Odometry': lambda message: message.pose.pose,
}
TRUE_CLOUD_FRAMES = 40
TRUE_CLOUD_STEP_PX = 4


@dataclass(frozen=True)
class Recording:
    """A camera recording.

    Attributes:
        path: the bag.
        image_topic: the topic that is played.
        image_count: images on it.
        compressed: whether they are CompressedImage.
        truth: the true trajectory of the camera, None where there is none.
        truth_stamps_ns: its stamps, exactly.

    """

    path: Path
    image_topic: str
    image_count: int
    compressed: bool = False
    truth: PoseTrajectory3D | None = None
    truth_stamps_ns: tuple[int, ...] = ()

    def sample_frames(self, count: int) -> list[NDArray[np.uint8]]:
        """Return some images [h, w, 3] RGB, evenly over the recording."""
        wanted = set(np.linspace(0, self.image_count - 1, count).astype(int).tolist())
        with BagReader(self.path) as bag:
            return [
                rgb_from_message(bag.decode(message))
                for index, message in enumerate(bag.messages([self.image_topic]))
                if index in wanted
            ]

    def true_cloud(self) -> DrawnCloud | None:
        """Return the true room as points in the truth's frame; None without true depth."""
        if self.truth is None:
            return None
        with BagReader(self.path) as bag:
            depth_topic = bag.topics.get(TRUE_DEPTH_TOPIC)
            info = bag.camera_info_topic(self.image_topic)
            if depth_topic is None or not depth_topic.count or info is None:
                return None
            intrinsics = np.reshape(next(_decoded(bag, info.name)).k, (3, 3))
            every = max(1, depth_topic.count // TRUE_CLOUD_FRAMES)
            poses = dict(zip(self.truth_stamps_ns, self.truth.poses_se3, strict=True))
            points = [
                _points(bag.decode(message), intrinsics, poses[message.stamp_ns])
                for index, message in enumerate(bag.messages([TRUE_DEPTH_TOPIC]))
                if index % every == 0 and message.stamp_ns in poses
            ]
        xyz = np.concatenate(points) if points else np.empty((0, 3))
        return DrawnCloud(xyz, np.zeros((len(xyz), 3), np.uint8))


def open_recording(path: Path, image_topic: str = '', truth_topic: str = TRUTH_TOPIC) -> Recording:
    """Look at a bag.

    Args:
        path: MCAP or sqlite3 folder or file, or a ROS 1 bag.
        image_topic: empty = the first one with images.
        truth_topic: where the true pose of the camera would be.

    Raises:
        BagError: missing, truncated, not a bag, or without images.

    """
    with BagReader(path) as bag:
        images = bag.image_topic(image_topic)
        stamps_ns, poses = _true_poses(bag, truth_topic)
        truth = make_trajectory(stamps_ns, np.stack(poses)) if poses else None
        compressed = images.type_name == COMPRESSED_TYPE
        return Recording(path, images.name, images.count, compressed, truth, tuple(stamps_ns))


def _true_poses(bag: BagReader, topic: str) -> tuple[list[int], list[NDArray[np.float64]]]:
    stamps: list[int] = []
    poses: list[NDArray[np.float64]] = []
    found = bag.topics.get(topic)
    if found is None or found.type_name not in POSE_TYPES:
        return stamps, poses
    for message in bag.messages([topic]):
        pose = POSE_TYPES[found.type_name](bag.decode(message))
        stamps.append(message.stamp_ns)
        poses.append(matrix_of_pose(pose))
    return stamps, poses


def _decoded(bag: BagReader, topic: str) -> Iterator[Any]:
    return (bag.decode(message) for message in bag.messages([topic]))


def _points(message: Any, intrinsics: NDArray[np.float64], pose: Any) -> NDArray[np.float64]:
    """Unproject a depth image (32FC1 metres) thinned out, into the truth's frame: [n, 3]."""
    step = TRUE_CLOUD_STEP_PX
    depth = np.frombuffer(bytes(message.data), '<f4').reshape(message.height, message.width)
    v, u = np.mgrid[0 : message.height : step, 0 : message.width : step]
    z = depth[::step, ::step].astype(np.float64)
    valid = np.isfinite(z) & (z > 0)
    x = (u - intrinsics[0, 2]) / intrinsics[0, 0] * z
    y = (v - intrinsics[1, 2]) / intrinsics[1, 1] * z
    camera = np.stack([x[valid], y[valid], z[valid]], axis=-1)
    matrix = np.asarray(pose)
    return camera @ matrix[:3, :3].T + matrix[:3, 3]
