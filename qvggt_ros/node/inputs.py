# Copyright 2026 qvggt_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""The subscriptions: images and, where there is one, the calibration."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from rclpy.node import Node
from rclpy.qos import QoSProfile, ReliabilityPolicy, qos_policy_name_from_kind
from rclpy.qos_overriding_options import QoSOverridingOptions
from sensor_msgs.msg import CameraInfo, CompressedImage, Image

try:
    from rclpy.event_handler import SubscriptionEventCallbacks, UnsupportedEventTypeError
except ImportError:  # its name in Humble
    from rclpy.qos_event import SubscriptionEventCallbacks, UnsupportedEventTypeError

from qvggt_ros.node.camera_info import CalibrationCache
from qvggt_ros.node.clocks import steady_timer
from qvggt_ros.node.parameters import NodeSettings
from qvggt_ros.node.pipeline import ReceivedImage
from qvggt_ros.node.statistics import NodeStatistics

CAMERA_INFO_QUEUE_DEPTH = 5
RELIABILITY_CHECK_PERIOD_S = 0.25


class Inputs:
    """Subscribes on creation.

    Best effort hears every publisher, but one lost fragment of an image loses the image: on a
    busy machine most VGA images do not arrive (19 of 50 at 10 Hz, measured over shared memory).
    So where every publisher of the images offers reliable delivery, it is asked for.
    """

    def __init__(
        self,
        node: Node,
        settings: NodeSettings,
        on_image: Callable[[ReceivedImage], None],
        calibration: CalibrationCache,
        statistics: NodeStatistics,
    ) -> None:
        self._node = node
        self._on_image = on_image
        self._statistics = statistics
        self._last_image_s = self._last_warning_s = time.monotonic()
        self._loss_told = False
        compressed = settings.image_transport == 'compressed'
        self._image_type = CompressedImage if compressed else Image
        topic = node.resolve_topic_name('image_raw')
        self.image_topic = f'{topic}/compressed' if compressed else topic
        self.camera_info_topic = node.resolve_topic_name('camera_info')
        overridable: dict[str, Any] = {
            'qos_overriding_options': QoSOverridingOptions.with_default_policies()
        }
        reliable = settings.image_reliability == 'reliable'
        image_qos = _qos(settings.image_queue_depth, reliable)
        self._images = self._subscribe_images(image_qos, **overridable)
        self._infos = node.create_subscription(
            CameraInfo,
            self.camera_info_topic,
            calibration.update,
            _qos(CAMERA_INFO_QUEUE_DEPTH, False),
            **overridable,
        )
        self._check: Any = None
        if settings.image_reliability == 'auto':
            self._check = steady_timer(node, RELIABILITY_CHECK_PERIOD_S, self._prefer_reliable)

    def destroy(self) -> None:
        """Stop listening."""
        if self._check is not None:
            self._node.destroy_timer(self._check)
            self._check = None
        self._node.destroy_subscription(self._images)
        self._node.destroy_subscription(self._infos)

    def silence(self, timeout_s: float) -> str:
        """Return what is wrong when no image came for `timeout_s`, empty otherwise.

        It is logged too, once per timeout.
        """
        now_s = time.monotonic()
        silent_s = now_s - self._last_image_s
        if silent_s < timeout_s:
            return ''
        publishers = self._node.count_publishers(self.image_topic)
        text = (
            f'no image on {self.image_topic} for {silent_s:.0f} s, {publishers} publisher(s) '
            f'there; see: ros2 topic info -v {self.image_topic}'
        )
        if now_s - self._last_warning_s >= timeout_s:
            self._last_warning_s = now_s
            self._node.get_logger().warning(text)
        return text

    def _receive_image(self, message: Any) -> None:
        self._last_image_s = time.monotonic()
        self._statistics.image_received(self._last_image_s)
        self._on_image(ReceivedImage(message, self._last_image_s))

    def _prefer_reliable(self) -> None:
        """Subscribe anew, reliably, once every publisher of the images offers that."""
        offers = [
            publisher.qos_profile.reliability
            for publisher in self._node.get_publishers_info_by_topic(self.image_topic)
        ]
        if not offers or any(offer != ReliabilityPolicy.RELIABLE for offer in offers):
            return
        self._check.cancel()
        qos = self._images.qos_profile  # with what overrides made of it
        if qos.reliability == ReliabilityPolicy.RELIABLE:
            return
        qos.reliability = ReliabilityPolicy.RELIABLE
        self._node.destroy_subscription(self._images)
        self._images = self._subscribe_images(qos)

    def _subscribe_images(self, qos: QoSProfile, **arguments: Any) -> Any:
        parts = self._image_type, self.image_topic, self._receive_image, qos
        events = SubscriptionEventCallbacks(
            incompatible_qos=self._on_incompatible_qos, message_lost=self._on_loss
        )
        try:
            return self._node.create_subscription(*parts, event_callbacks=events, **arguments)
        except UnsupportedEventTypeError:  # a middleware that does not tell
            return self._node.create_subscription(*parts, **arguments)

    def _on_incompatible_qos(self, event: Any) -> None:
        policy = qos_policy_name_from_kind(event.last_policy_kind)
        text = f'a publisher of {self.image_topic} offers another {policy} than is asked for'
        self._statistics.error(text)
        self._node.get_logger().error(f'{text}; see: ros2 topic info -v {self.image_topic}')

    def _on_loss(self, event: Any) -> None:
        self._statistics.count('messages_lost_by_middleware', event.total_count_change)
        if not self._loss_told:
            self._loss_told = True
            self._node.get_logger().warning(
                f'the middleware loses images of {self.image_topic} on the way (counted in '
                '/diagnostics): let their publisher offer reliable delivery, or use '
                'image_transport compressed'
            )


def _qos(depth: int, reliable: bool) -> QoSProfile:
    policy = ReliabilityPolicy.RELIABLE if reliable else ReliabilityPolicy.BEST_EFFORT
    return QoSProfile(depth=depth, reliability=policy)
