# Copyright 2026 qvggt_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""The RViz view shows what the node really publishes, as RViz can read it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import rclpy
import yaml
from rclpy.context import Context
from rclpy.qos import DurabilityPolicy, QoSProfile, ReliabilityPolicy

from qvggt_ros.node.outputs import Outputs
from qvggt_ros.node.parameters import NodeSettings
from qvggt_ros.node.reconstruct_node import ReconstructNode

# Display class -> message type, for the displays of rviz_default_plugins that have a topic.
SHOWS = {
    'Image': 'sensor_msgs/Image',
    'Odometry': 'nav_msgs/Odometry',
    'Path': 'nav_msgs/Path',
    'PointCloud2': 'sensor_msgs/PointCloud2',
    'Pose': 'geometry_msgs/PoseStamped',
    'PoseWithCovariance': 'geometry_msgs/PoseWithCovarianceStamped',
}
WITHOUT_TOPIC = {'Axes', 'Grid', 'TF'}
PLUGINS = 'rviz_default_plugins/'


@pytest.fixture(scope='module')
def view(project_dir: Path) -> dict[str, Any]:
    text = (project_dir / 'rviz' / 'reconstruct.rviz').read_text()
    parsed: dict[str, Any] = yaml.safe_load(text)['Visualization Manager']
    return parsed


@pytest.fixture(scope='module')
def published() -> Iterator[dict[str, tuple[str, QoSProfile]]]:
    """Return topic -> (type, QoS) of the node's publishers, named as the launch file names it."""
    context = Context()
    rclpy.init(context=context)
    arguments = ['--ros-args', '-r', '__node:=reconstruct']
    node = ReconstructNode(context=context, cli_args=arguments)
    outputs = Outputs(node, NodeSettings())
    yield {
        publisher.topic_name: (type_name(publisher.msg_type), publisher.qos_profile)
        for publisher in node.publishers
    }
    outputs.destroy()
    node.destroy_node()
    rclpy.shutdown(context=context)


def type_name(message_type: type) -> str:
    return f'{message_type.__module__.split(".")[0]}/{message_type.__name__}'


def displays(view: dict[str, Any]) -> list[tuple[str, dict[str, Any]]]:
    """Return (class without the plugins' prefix, display)."""
    found = [(str(display['Class']), display) for display in view['Displays']]
    assert all(name.startswith(PLUGINS) for name, _ in found)
    return [(name[len(PLUGINS) :], display) for name, display in found]


def with_topic(view: dict[str, Any]) -> list[tuple[str, dict[str, Any]]]:
    return [(name, display['Topic']) for name, display in displays(view) if 'Topic' in display]


def test_every_display_is_a_plugin_of_rviz(view: dict[str, Any]) -> None:
    names = {name for name, _ in displays(view)}
    assert names <= set(SHOWS) | WITHOUT_TOPIC
    assert {'PointCloud2', 'Path', 'PoseWithCovariance', 'TF', 'Grid', 'Image'} <= names


def test_every_topic_is_published_with_that_type(
    view: dict[str, Any], published: dict[str, tuple[str, QoSProfile]]
) -> None:
    shown = {topic['Value']: SHOWS[name] for name, topic in with_topic(view)}
    assert shown.pop('/image_raw') == 'sensor_msgs/Image'  # the camera's, as remapped at launch
    assert shown == {topic: published[topic][0] for topic in shown if topic in published}
    assert {'/reconstruct/points', '/reconstruct/map'} <= set(shown)


def test_every_quality_asked_for_is_offered(
    view: dict[str, Any], published: dict[str, tuple[str, QoSProfile]]
) -> None:
    for _, topic in with_topic(view):
        if topic['Value'] not in published:
            assert topic['Reliability Policy'] == 'Best Effort'  # hears every camera
            continue
        qos = published[topic['Value']][1]
        latched = qos.durability == DurabilityPolicy.TRANSIENT_LOCAL
        asks_latched = topic['Durability Policy'] == 'Transient Local'
        # An unlatched display of a latched map would stay empty until the map changes.
        assert asks_latched == latched, topic['Value']
        reliable = qos.reliability == ReliabilityPolicy.RELIABLE
        assert reliable or topic['Reliability Policy'] == 'Best Effort', topic['Value']


def test_clouds_are_shown_in_their_own_colours(view: dict[str, Any]) -> None:
    clouds = [display for name, display in displays(view) if name == 'PointCloud2']
    assert clouds
    for cloud in clouds:
        assert (cloud['Color Transformer'], cloud['Position Transformer']) == ('RGB8', 'XYZ')


def test_the_fixed_frame_is_the_nodes_map_frame(view: dict[str, Any]) -> None:
    assert view['Global Options']['Fixed Frame'] == NodeSettings().map_frame


def test_nothing_of_the_machine_it_was_made_on_is_left(project_dir: Path) -> None:
    text = (project_dir / 'rviz' / 'reconstruct.rviz').read_text()
    assert '/home/' not in text and '.ros' not in text
