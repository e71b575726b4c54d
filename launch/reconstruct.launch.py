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
from launch.actions import (
    DeclareLaunchArgument,
    EmitEvent,
    LogInfo,
    OpaqueFunction,
    RegisterEventHandler,
)
from launch.conditions import IfCondition
from launch.event_handlers import OnProcessStart
from launch.events import matches_action
from launch.substitutions import LaunchConfiguration
from launch_ros.actions import LifecycleNode, Node
from launch_ros.event_handlers import OnStateTransition
from launch_ros.events.lifecycle import ChangeState
from lifecycle_msgs.msg import Transition

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
    node = reconstruct_node(values)
    actions: list[Action] = []
    if values['autostart'] == 'true':
        # Before the node, or its start goes unnoticed.
        actions += [configure_when_started(node), activate_when_configured(node)]
        actions += [tell_when_refused(node, state) for state in ('configuring', 'errorprocessing')]
    actions += [node, rviz_node(values)]
    if values['bag']:
        actions.append(bag_player(values))
    return actions


def reconstruct_node(values: dict[str, str]) -> LifecycleNode:
    """Return the node, with the parameter file and what the arguments say over it."""
    overrides: dict[str, object] = {'use_sim_time': values['use_sim_time'] == 'true'}
    if values['bundle']:
        overrides['bundle'] = values['bundle']
    return LifecycleNode(
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


def configure_when_started(node: LifecycleNode) -> RegisterEventHandler:
    """Return the handler that makes the node load its engine as soon as it runs."""
    configure = change_state(node, Transition.TRANSITION_CONFIGURE)
    return RegisterEventHandler(OnProcessStart(target_action=node, on_start=[configure]))


def activate_when_configured(node: LifecycleNode) -> RegisterEventHandler:
    """Return the handler that makes the node listen to its camera once its engine is loaded."""
    activate = change_state(node, Transition.TRANSITION_ACTIVATE)
    return RegisterEventHandler(
        OnStateTransition(
            target_lifecycle_node=node,
            start_state='configuring',
            goal_state='inactive',
            entities=[LogInfo(msg='engine loaded: activating'), activate],
        )
    )


def tell_when_refused(node: LifecycleNode, start_state: str) -> RegisterEventHandler:
    """Return the handler that says what to do when the node could not start.

    The launch goes on: it may be part of a larger one, with a robot that must not stop.
    """
    advice = 'not started: mend what it reports above, then ros2 lifecycle set NODE configure'
    return RegisterEventHandler(
        OnStateTransition(
            target_lifecycle_node=node,
            start_state=start_state,
            goal_state='unconfigured',
            entities=[LogInfo(msg=f'{NODE_NAME} {advice}')],
        )
    )


def change_state(node: LifecycleNode, transition_id: int) -> EmitEvent:
    """Return the request of one lifecycle transition."""
    event = ChangeState(lifecycle_node_matcher=matches_action(node), transition_id=transition_id)
    return EmitEvent(event=event)


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
