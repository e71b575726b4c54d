# Copyright 2026 qvggt_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""tf2_msgs as built into the environment is the one that every ROS 2 knows."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import ros_harness  # first: it keeps this test's DDS traffic to itself
from geometry_msgs.msg import TransformStamped

tf2_msgs = pytest.importorskip(
    'tf2_msgs.msg', reason='tf2_msgs was not built: no C++ compiler (make env says which package)'
)

# Of tf2_msgs/msg/TFMessage in ROS 2 from Iron on: nodes of two machines compare it.
TYPE_HASH = 'RIHS01_e369d0f05a23ae52508854b66f6aa0437f3449d652e8cbf22d5abe85d020f087'


def test_a_transform_goes_over_dds() -> None:
    transform = TransformStamped()
    transform.header.frame_id = 'map'
    transform.child_frame_id = 'camera'
    transform.transform.translation.x = 1.25
    sent = tf2_msgs.TFMessage(transforms=[transform, transform])
    with ros_harness.ros() as graph:
        received = graph.heard(tf2_msgs.TFMessage, '/tf')
        publisher = graph.node.create_publisher(tf2_msgs.TFMessage, '/tf', 10)
        graph.until(lambda: publisher.get_subscription_count() > 0)
        publisher.publish(sent)
        graph.until(lambda: bool(received))
    assert received == [sent]


def test_it_is_the_type_of_every_other_ros() -> None:
    package = Path(tf2_msgs.__file__).parent.parent
    described = list(package.parents[3].glob('share/tf2_msgs/msg/TFMessage.json'))
    if not described:
        pytest.skip('this tf2_msgs is that of a ROS 2 distribution')
    (own, *_) = json.loads(described[0].read_text())['type_hashes']
    assert own == {'type_name': 'tf2_msgs/msg/TFMessage', 'hash_string': TYPE_HASH}
