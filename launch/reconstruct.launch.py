# Copyright 2026 qvggt_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Starts the reconstruction node and, if asked, RViz and a recording to play to it.

    ros2 launch qvggt_ros reconstruct.launch.py image_topic:=/camera/image_raw

Runs on ROS 2 Humble and later.
"""

from __future__ import annotations

from pathlib import Path

from launch import LaunchContext, LaunchDescription
from launch.action import Action
from launch.actions import DeclareLaunchArgument, OpaqueFunction
from launch.conditions import IfCondition
from launch.substitutions import LaunchConfiguration
from launch_ros.actions import Node

# This file stands in share/qvggt_ros/launch, in the source tree and where it is installed.
SHARE = Path(__file__).parent.parent
NODE_NAME = 'reconstruct'
# What config and RViz call these topics; RViz follows when they are called otherwise.
IMAGE_TOPIC = 'image_raw'
SHOWN_TOPICS = ('points', 'map', 'path', 'pose')

ARGUMENTS = (
    DeclareLaunchArgument(
        'image_topic',
        default_value=IMAGE_TOPIC,
        description='Images to reconstruct from; parameter image_transport says raw or compressed',
    ),
    DeclareLaunchArgument(
        'camera_info_topic',
        default_value='camera_info',
        description='Calibration, if there is one',
    ),
    DeclareLaunchArgument(
        'bundle',
        default_value=str(SHARE / 'engines' / 'demo'),
        description='Folder of the bundle to run; empty: the one that params_file names',
    ),
    DeclareLaunchArgument(
        'params_file',
        default_value=str(SHARE / 'config' / 'reconstruct.yaml'),
        description='Parameters of the node',
    ),
    DeclareLaunchArgument('namespace', default_value='', description='Namespace of all nodes'),
    DeclareLaunchArgument(
        'use_sim_time',
        default_value='false',
        choices=['true', 'false'],
        description='Take time from /clock (simulation, ros2 bag play --clock)',
    ),
    DeclareLaunchArgument(
        'autostart',
        default_value='true',
        choices=['true', 'false'],
        description='Configure and activate the node; false where a lifecycle manager does that',
    ),
    DeclareLaunchArgument(
        'rviz', default_value='false', choices=['true', 'false'], description='Show it in RViz'
    ),
    DeclareLaunchArgument('bag', default_value='', description='Recording to play to the node'),
)


def generate_launch_description() -> LaunchDescription:
    """Declare the arguments; the actions follow from their values."""
    return LaunchDescription([*ARGUMENTS, OpaqueFunction(function=launch_actions)])


def launch_actions(context: LaunchContext) -> list[Action]:
    """Return what to start, from the arguments' values."""
    values = {
        argument.name: LaunchConfiguration(argument.name).perform(context)
        for argument in ARGUMENTS
    }
    if not Path(values['params_file']).is_file():
        # launch_ros would warn and run the node on its defaults.
        raise RuntimeError(f'params_file: {values["params_file"]}: no such file')
    # RViz first: where it is missing, launch stops without stopping what already runs.
    actions: list[Action] = [rviz_node(values), reconstruct_node(values)]
    if values['bag']:
        actions.append(bag_player(values))
    return actions


def reconstruct_node(values: dict[str, str]) -> Node:
    """Return the node, with the parameter file and what the arguments say over it.

    The node starts itself: transitions asked for from here would need a ROS node in this process,
    and could miss the event that the engine is loaded.
    """
    overrides: dict[str, object] = {
        'autostart': values['autostart'] == 'true',
        'use_sim_time': values['use_sim_time'] == 'true',
    }
    if values['bundle']:
        overrides['bundle'] = values['bundle']
    return Node(
        package='qvggt_ros',
        executable='reconstruct_node',
        name=NODE_NAME,
        namespace=values['namespace'],
        parameters=[values['params_file'], overrides],
        remappings=input_remappings(values),
        output='screen',
    )


def input_remappings(values: dict[str, str]) -> list[tuple[str, str]]:
    """Return where the relative names of the inputs lead, for the node and the bag player."""
    return [(IMAGE_TOPIC, values['image_topic']), ('camera_info', values['camera_info_topic'])]


def rviz_node(values: dict[str, str]) -> Node:
    """Return RViz on the node's topics, whatever namespace and image topic they have."""
    namespace = values['namespace'].strip('/')
    prefix = f'/{namespace}' if namespace else ''
    image = values['image_topic']
    shown = [(f'/{IMAGE_TOPIC}', image if image.startswith('/') else f'{prefix}/{image}')]
    shown += [(f'/{NODE_NAME}/{topic}', f'{prefix}/{NODE_NAME}/{topic}') for topic in SHOWN_TOPICS]
    return Node(
        package='rviz2',
        executable='rviz2',
        arguments=['-d', str(SHARE / 'rviz' / 'reconstruct.rviz')],
        remappings=[(written, meant) for written, meant in shown if written != meant],
        condition=IfCondition(values['rviz']),
        output='log',
    )


def bag_player(values: dict[str, str]) -> Node:
    """Return the player, which waits until the node listens."""
    return Node(
        package='qvggt_ros',
        executable='bag_player',
        namespace=values['namespace'],
        parameters=[{'bag': values['bag']}],
        remappings=input_remappings(values),
        output='screen',
    )
