# Copyright 2026 qvggt_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Transforms to /tf, where tf2_msgs is installed: the one place that knows whether it is.

Every ROS distribution has it. PyPI does not, so that an environment made from there may lack it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from geometry_msgs.msg import TransformStamped, Vector3
from rclpy.lifecycle import LifecycleNode
from rclpy.qos import QoSProfile

from qvggt_ros.node.messages import header, pose_message
from qvggt_ros.reconstruction.frames import FramePose

try:
    from tf2_msgs.msg import TFMessage
except ImportError:
    TFMessage = None

TF_QOS = QoSProfile(depth=100)  # what tf2's listeners expect: reliable, volatile


class TfOutput:
    """Broadcasts map -> camera optical frame."""

    def __init__(self, node: LifecycleNode, map_frame: str) -> None:
        self._map_frame = map_frame
        self._publisher: Any = None
        self._nameless_told = False
        self._logger = node.get_logger()
        if TFMessage is None:
            self._logger.warning('tf2_msgs is not installed: nothing is published on /tf')
            return
        self._publisher = node.create_lifecycle_publisher(TFMessage, '/tf', TF_QOS)

    def send(self, poses: Sequence[FramePose]) -> None:
        """Broadcast the poses of one window in one message, each with its own stamp."""
        if self._publisher is None:
            return
        if any(not pose.frame_id for pose in poses):
            if not self._nameless_told:
                self._nameless_told = True
                self._logger.warning('images come without frame_id: nothing is published on /tf')
            return
        transforms = [self._transform(pose) for pose in poses]
        self._publisher.publish(TFMessage(transforms=transforms))

    def destroy(self, node: LifecycleNode) -> None:
        """Take the publisher down."""
        if self._publisher is not None:
            node.destroy_lifecycle_publisher(self._publisher)
            self._publisher = None

    def _transform(self, pose: FramePose) -> TransformStamped:
        message = pose_message(pose.map_from_camera)
        position = message.position
        transform = TransformStamped(
            header=header(pose.stamp_ns, self._map_frame), child_frame_id=pose.frame_id
        )
        transform.transform.translation = Vector3(x=position.x, y=position.y, z=position.z)
        transform.transform.rotation = message.orientation
        return transform
