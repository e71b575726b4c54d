# Copyright 2026 qvggt_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""A node that plays a camera recording with its own stamps, byte for byte.

It can play at the recording's pace, or in lockstep with a node that answers each image with a
pose: then a slow engine drops nothing, and an evaluation is the same on every machine.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import rclpy
from geometry_msgs.msg import PoseWithCovarianceStamped
from rcl_interfaces.msg import (
    FloatingPointRange,
    IntegerRange,
    ParameterDescriptor,
)
from rclpy.duration import Duration
from rclpy.executors import SingleThreadedExecutor
from rclpy.node import Node
from rclpy.qos import DurabilityPolicy, QoSProfile
from sensor_msgs.msg import CameraInfo, CompressedImage, Image

from qvggt_ros.errors import BagError, UsageError
from qvggt_ros.node.bag_reader import COMPRESSED_TYPE, BagMessage, BagReader
from qvggt_ros.node.interrupts import is_interrupt
from qvggt_ros.node.messages import stamp_to_ns

NODE_NAME = 'bag_player'
EXIT_BAD_INPUT = 2
# Transient local: a pose that left before this player was found still counts.
ANSWER_QOS = QoSProfile(depth=1000, durability=DurabilityPolicy.TRANSIENT_LOCAL)
ACKNOWLEDGE_TIMEOUT_S = 5.0


@dataclass(frozen=True)
class PlayerParameter:
    """A parameter: default, meaning and, for numbers, the range."""

    default: Any
    meaning: str
    low: float = 0.0
    high: float = 0.0


PARAMETERS = {
    'bag': PlayerParameter(
        '', 'Folder or file of the recording (MCAP, sqlite3, ROS 1). Required.'
    ),
    'rate': PlayerParameter(1.0, 'Speed relative to the recording.', 1e-3, 1e6),
    'loop': PlayerParameter(False, 'Begin again at the end, until stopped.'),
    'image_topic': PlayerParameter(
        '', 'Topic of the bag to play as image_raw; empty = the first.'
    ),
    'camera_info_topic': PlayerParameter(
        '', "Topic of the bag to play as camera_info; empty = the image topic's neighbour."
    ),
    'max_images': PlayerParameter(0, 'Images to play at most; 0 = all.', 0, 1_000_000_000),
    'subscriber_timeout_s': PlayerParameter(
        30.0, 'Time to wait for someone who listens to the images; 0 = do not wait.', 0.0, 86400.0
    ),
    'start_delay_s': PlayerParameter(
        1.0, 'Time from the first listener to the first image, so that all can connect.', 0, 60.0
    ),
    'wait_for': PlayerParameter(
        '', 'Pose topic of lockstep: play on only as poses come. Empty = by the clock alone.'
    ),
    'max_in_flight': PlayerParameter(
        16, 'Images without a pose at most, in lockstep; at least one window.', 1, 10_000
    ),
    'answer_timeout_s': PlayerParameter(
        30.0, 'Time to wait for a pose in lockstep before playing on.', 0.1, 86400.0
    ),
}


@dataclass
class PlayReport:
    """What was played."""

    images: int = 0
    camera_infos: int = 0
    answered: int = 0
    given_up: int = 0
    seconds: float = 0.0

    def line(self) -> str:
        """Return it in words."""
        rate_hz = self.images / self.seconds if self.seconds else 0.0
        answered = f'; {self.answered} answered' if self.answered or self.given_up else ''
        given_up = f', {self.given_up} given up' if self.given_up else ''
        return (
            f'played {self.images} images and {self.camera_infos} camera_infos in '
            f'{self.seconds:.1f} s ({rate_hz:.1f} images/s){answered}{given_up}'
        )


class BagPlayer(Node):
    """Publishes a bag's images on image_raw and its calibration on camera_info, reliably."""

    def __init__(self, **node_arguments: Any) -> None:
        """Declare the parameters; rclpy raises if an override has a wrong type or range."""
        super().__init__(NODE_NAME, **node_arguments)
        for name, spec in PARAMETERS.items():
            self.declare_parameter(name, spec.default, _descriptor(spec))
        self.report = PlayReport()
        self._unanswered: set[int] = set()
        self._spinner = SingleThreadedExecutor()
        self._spinner.add_node(self)

    def play(self) -> PlayReport:
        """Play the whole bag, or until the context is shut down.

        Raises:
            BagError: the bag cannot be read or has no images.
            UsageError: a parameter is missing, or nobody listens.

        """
        if not self._value('bag'):
            raise UsageError('parameter bag is empty: give the folder or file of a recording')
        with BagReader(self._value('bag')) as bag:
            image_topic = bag.image_topic(self._value('image_topic'))
            info_topic = bag.camera_info_topic(image_topic.name, self._value('camera_info_topic'))
            self._open_topics(image_topic.type_name == COMPRESSED_TYPE)
            names = [image_topic.name] + ([info_topic.name] if info_topic else [])
            self._wait_for_company()
            self.get_logger().info(
                f'playing {image_topic.count} images of {image_topic.name} from {bag.path} '
                f'on {self._images.topic_name}'
            )
            started_s = time.monotonic()
            self._play_once(bag, names, image_topic.name)
            while self._value('loop') and rclpy.ok(context=self.context):
                self._play_once(bag, names, image_topic.name)
            self._finish()
            self.report.seconds = time.monotonic() - started_s
        return self.report

    def _open_topics(self, compressed: bool) -> None:
        depth = max(10, self._value('max_in_flight'))
        topic = self.resolve_topic_name('image_raw') + ('/compressed' if compressed else '')
        kind = CompressedImage if compressed else Image
        self._images = self.create_publisher(kind, topic, QoSProfile(depth=depth))
        self._infos = self.create_publisher(CameraInfo, 'camera_info', QoSProfile(depth=depth))
        if self._value('wait_for'):
            self.create_subscription(
                PoseWithCovarianceStamped,
                self._value('wait_for'),
                self._on_pose,
                ANSWER_QOS,
            )

    def _wait_for_company(self) -> None:
        """Wait for who listens to the images and, in lockstep, for who answers them."""
        timeout_s, topic = self._value('subscriber_timeout_s'), self._images.topic_name
        if not timeout_s:
            return
        deadline_s = time.monotonic() + timeout_s
        self._wait_until(
            lambda: self._images.get_subscription_count() > 0,
            deadline_s,
            f'nobody listens to {topic} after {timeout_s:g} s: start the other node, or remap '
            'image_raw',
        )
        answers = self._value('wait_for')
        self._wait_until(
            lambda: not answers or self.count_publishers(answers) > 0,
            deadline_s,
            f'nobody publishes {answers} after {timeout_s:g} s: parameter wait_for must name the '
            "node's pose topic",
        )
        self._spin_until(time.monotonic() + self._value('start_delay_s'))

    def _wait_until(
        self, condition: Callable[[], bool], deadline_s: float, otherwise: str
    ) -> None:
        while not condition():
            if time.monotonic() > deadline_s:
                raise UsageError(otherwise)
            self._spin(0.05)

    def _play_once(self, bag: BagReader, topics: Sequence[str], image_topic: str) -> None:
        rate, limit = self._value('rate'), self._value('max_images')
        started_s, first_ns, images = time.monotonic(), None, 0
        for message in bag.messages(topics):
            first_ns = message.bag_time_ns if first_ns is None else first_ns
            self._spin_until(started_s + (message.bag_time_ns - first_ns) / 1e9 / rate)
            if message.topic != image_topic:
                self._infos.publish(message.cdr)
                self.report.camera_infos += 1
                continue
            if limit and images == limit:
                return
            self._publish_image(message)
            images += 1

    def _publish_image(self, message: BagMessage) -> None:
        if self._value('wait_for'):
            self._await_answers(self._value('max_in_flight') - 1)
            self._unanswered.add(message.stamp_ns)
        self._images.publish(message.cdr)
        self.report.images += 1

    def _await_answers(self, allowed: int) -> None:
        """Wait until at most `allowed` images are without a pose, or give those up."""
        deadline_s = time.monotonic() + self._value('answer_timeout_s')
        before = len(self._unanswered)
        while len(self._unanswered) > allowed:
            self._spin(0.05)
            if len(self._unanswered) < before:
                before = len(self._unanswered)
                deadline_s = time.monotonic() + self._value('answer_timeout_s')
            if time.monotonic() > deadline_s:
                self.report.given_up += len(self._unanswered)
                self.get_logger().warning(
                    f'no pose for {len(self._unanswered)} images within '
                    f'{self._value("answer_timeout_s"):g} s: playing on'
                )
                self._unanswered.clear()

    def _finish(self) -> None:
        """Wait until all is delivered and, in lockstep, answered."""
        if not rclpy.ok(context=self.context):
            return
        self._images.wait_for_all_acked(Duration(seconds=ACKNOWLEDGE_TIMEOUT_S))
        if self._value('wait_for'):
            self._await_answers(0)

    def _on_pose(self, message: Any) -> None:
        stamp_ns = stamp_to_ns(message.header.stamp)
        if stamp_ns in self._unanswered:
            self._unanswered.remove(stamp_ns)
            self.report.answered += 1

    def _spin_until(self, due_s: float) -> None:
        """Run callbacks until a moment of the monotonic clock, at least once."""
        self._spin(0.0)
        while (left_s := due_s - time.monotonic()) > 0:
            self._spin(left_s)

    def _spin(self, timeout_s: float) -> None:
        """Run one callback or let time pass; rclpy raises when the context is shut down."""
        self._spinner.spin_once(timeout_sec=timeout_s)

    def _value(self, name: str) -> Any:
        return self.get_parameter(name).value


def _descriptor(spec: PlayerParameter) -> ParameterDescriptor:
    descriptor = ParameterDescriptor(description=spec.meaning, read_only=True)
    if isinstance(spec.default, float):
        descriptor.floating_point_range = [
            FloatingPointRange(from_value=spec.low, to_value=spec.high)
        ]
    elif isinstance(spec.default, int) and not isinstance(spec.default, bool):
        descriptor.integer_range = [
            IntegerRange(from_value=int(spec.low), to_value=int(spec.high), step=1)
        ]
    return descriptor


def main(args: Sequence[str] | None = None) -> int:
    """Play a bag; return 0 when it is through, 2 after one line on bad input."""
    try:
        rclpy.init(args=None if args is None else list(args))
        player = BagPlayer()
    except Exception as error:  # rclpy's own, of no common root: a bad file, type or range
        print(f'{NODE_NAME}: {" ".join(str(error).split())}', file=sys.stderr)
        return EXIT_BAD_INPUT
    try:
        player.get_logger().info(player.play().line())
    except (BagError, UsageError) as error:
        player.get_logger().error(str(error))
        return EXIT_BAD_INPUT
    except (KeyboardInterrupt, Exception) as error:
        if not is_interrupt(error):
            raise
        return 130
    finally:
        player.destroy_node()
        rclpy.try_shutdown()
    return 0


if __name__ == '__main__':
    sys.exit(main())
