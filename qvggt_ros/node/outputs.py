# Copyright 2026 qvggt_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Everything the node publishes about the reconstruction."""

from __future__ import annotations

import threading
from collections import deque
from typing import Any

import numpy as np
from geometry_msgs.msg import PoseStamped, PoseWithCovariance, PoseWithCovarianceStamped
from nav_msgs.msg import Odometry, Path
from rclpy.lifecycle import LifecycleNode
from rclpy.qos import DurabilityPolicy, QoSProfile
from sensor_msgs.msg import PointCloud2

from qvggt_ros.node.messages import cloud_message, header, pose_message
from qvggt_ros.node.parameters import NodeSettings
from qvggt_ros.node.tf_output import TfOutput
from qvggt_ros.reconstruction.frames import FramePose, WindowResult
from qvggt_ros.reconstruction.voxel_map import VoxelMap

# A window's poses leave in one burst, and none of them may push another out. The latest are kept
# for a listener that asks for them (transient local) because it was found late.
POSE_QOS = QoSProfile(depth=100, durability=DurabilityPolicy.TRANSIENT_LOCAL)
ODOMETRY_QOS = QoSProfile(depth=100)
CLOUD_QOS = QoSProfile(depth=5)
LATCHED_QOS = QoSProfile(depth=1, durability=DurabilityPolicy.TRANSIENT_LOCAL)

# Standard deviations: of a position relative to the median depth, of an angle in radians, for a
# perfect fit. The fit's residual is added. This is a rule of thumb, not a calibrated covariance.
POSITION_SIGMA = 0.02
ROTATION_SIGMA_RAD = 0.02
UNKNOWN_TWIST_VARIANCE = 1e6


class Outputs:
    """Publishers, the path and the voxel map.

    `publish` runs in the worker thread, `publish_slow` and `clear` in the executor's; one lock
    keeps path and map whole.
    """

    def __init__(self, node: LifecycleNode, settings: NodeSettings) -> None:
        self._node = node
        self._map_frame = settings.map_frame
        self._lock = threading.Lock()
        self.voxel_map = VoxelMap(settings.voxel_map_config())
        self._path: deque[PoseStamped] = deque(maxlen=settings.path_length)
        self._latest_stamp_ns = 0
        self._path_changed = self._map_changed = False
        create = node.create_lifecycle_publisher
        self._points = create(PointCloud2, '~/points', CLOUD_QOS)
        self._map = create(PointCloud2, '~/map', LATCHED_QOS)
        self._pose = create(PoseWithCovarianceStamped, '~/pose', POSE_QOS)
        self._odometry = create(Odometry, '~/odometry', ODOMETRY_QOS)
        self._path_publisher = create(Path, '~/path', LATCHED_QOS)
        self._tf = TfOutput(node, settings.map_frame)

    def publish(self, result: WindowResult, with_tf: bool) -> None:
        """Publish a window: poses and transforms first, they are small and urgent."""
        covariance = pose_covariance(result)
        for pose in result.poses:
            self._publish_pose(pose, covariance)
        if with_tf:
            self._tf.send(result.poses)
        self._latest_stamp_ns = result.poses[-1].stamp_ns
        if self._points.get_subscription_count():
            cloud_header = header(self._latest_stamp_ns, self._map_frame)
            self._points.publish(cloud_message(result.cloud, cloud_header))
        with self._lock:
            self.voxel_map.insert(result.cloud)
            self._path_changed = self._map_changed = True

    def publish_path(self) -> None:
        """Publish the path if it changed: hundreds of poses take rclpy tens of milliseconds."""
        if not self._path_publisher.get_subscription_count():
            return
        with self._lock:
            changed, self._path_changed = self._path_changed, False
            poses = list(self._path)
        if changed:
            path_header = header(self._latest_stamp_ns, self._map_frame)
            self._path_publisher.publish(Path(header=path_header, poses=poses))

    def publish_map(self) -> None:
        """Publish the voxel map if it changed and somebody listens."""
        if not self._map.get_subscription_count():
            return
        with self._lock:
            changed, self._map_changed = self._map_changed, False
            cloud = self.voxel_map.cloud() if changed else None
        if cloud is not None:
            map_header = header(self._latest_stamp_ns, self._map_frame)
            self._map.publish(cloud_message(cloud, map_header))

    def map_cloud(self) -> Any:
        """Return a copy of the voxel map's points."""
        with self._lock:
            return self.voxel_map.cloud()

    def clear(self) -> None:
        """Empty path and map; listeners get the empty ones."""
        with self._lock:
            self.voxel_map.clear()
            self._path.clear()
            self._path_changed = self._map_changed = True

    def destroy(self) -> None:
        """Take all publishers down."""
        self._tf.destroy(self._node)
        for publisher in (
            self._points,
            self._map,
            self._pose,
            self._odometry,
            self._path_publisher,
        ):
            self._node.destroy_lifecycle_publisher(publisher)

    def _publish_pose(self, pose: FramePose, covariance: list[float]) -> None:
        pose_header = header(pose.stamp_ns, self._map_frame)
        message = pose_message(pose.map_from_camera)
        with_covariance = PoseWithCovariance(pose=message, covariance=covariance)
        self._pose.publish(PoseWithCovarianceStamped(header=pose_header, pose=with_covariance))
        with self._lock:
            self._path.append(PoseStamped(header=pose_header, pose=message))
        if self._odometry.get_subscription_count():
            odometry = Odometry(
                header=pose_header, child_frame_id=pose.frame_id, pose=with_covariance
            )
            odometry.twist.covariance = _diagonal([UNKNOWN_TWIST_VARIANCE] * 6)
            self._odometry.publish(odometry)


def pose_covariance(result: WindowResult) -> list[float]:
    """Return a rough 6x6 covariance: x, y, z in map units, then rotations, radians."""
    position = (POSITION_SIGMA + result.residual) * result.median_depth
    rotation = ROTATION_SIGMA_RAD + result.residual
    return _diagonal([position**2] * 3 + [rotation**2] * 3)


def _diagonal(values: list[float]) -> list[float]:
    return [float(value) for value in np.diag(values).ravel()]
