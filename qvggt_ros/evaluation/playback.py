# Copyright 2026 qvggt_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Play a recording through the real node over DDS and keep what it publishes.

Node and player run as the processes that a robot would run; this process only listens.
"""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import rclpy
from diagnostic_msgs.msg import DiagnosticArray
from geometry_msgs.msg import PoseWithCovarianceStamped
from numpy.typing import NDArray
from rclpy.client import Client
from rclpy.executors import SingleThreadedExecutor
from rclpy.node import Node
from rclpy.qos import QoSProfile
from sensor_msgs.msg import PointCloud2
from std_srvs.srv import Trigger

from qvggt_ros.errors import BagError, EngineError
from qvggt_ros.evaluation.trajectory import matrix_of_pose
from qvggt_ros.node.messages import stamp_to_ns

NODE_NAME = 'reconstruct'
IMAGE_TOPIC, CAMERA_INFO_TOPIC = '/playback/image_raw', '/playback/camera_info'
NODE_READY_TIMEOUT_S = 120.0
SETTLE_TIMEOUT_S = 30.0  # for the last window, after the player has ended
STOP_TIMEOUT_S = 10.0


@dataclass(frozen=True)
class PlaybackConfig:
    """What to play and how.

    Attributes:
        bag: the recording.
        bundle: the engine's bundle.
        map_path: where the node saves its map.
        rate: playback speed, 1 = as recorded.
        node_parameters: further parameters of the node.
        image_topic: of the bag; empty = the first one with images.
        compressed: whether its images are CompressedImage.
        lockstep: hold frames back while the node is behind, so that none is dropped.

    """

    bag: Path
    bundle: Path
    map_path: Path
    rate: float = 1.0
    lockstep: bool = True
    image_topic: str = ''
    compressed: bool = False
    node_parameters: dict[str, str] = field(default_factory=dict)


@dataclass
class Playback:
    """What the node published.

    Attributes:
        stamps_ns: of the poses, in the order of arrival.
        map_from_camera: [4, 4] of each pose.
        windows: how many clouds came, one for each window.
        points: how many points they held.
        diagnostics: the last values by name.
        first_pose_s, wall_s: seconds from the node's start to the first pose, and in all.

    """

    stamps_ns: list[int] = field(default_factory=list)
    map_from_camera: list[NDArray[np.float64]] = field(default_factory=list)
    windows: int = 0
    points: int = 0
    diagnostics: dict[str, str] = field(default_factory=dict)
    first_pose_s: float = float('nan')
    wall_s: float = 0.0


def play(config: PlaybackConfig, progress: Callable[[int], None]) -> Playback:
    """Play the whole recording.

    Args:
        config: what to play.
        progress: called with the number of poses received so far.

    Raises:
        BagError: the player refused the recording.
        EngineError: the node ended by itself or never became ready.

    """
    context = rclpy.Context()
    # Without the words of our own command line, which are not for ROS.
    rclpy.init(args=[], context=context, domain_id=_own_domain())
    listener = _Listener(context)
    executor = SingleThreadedExecutor(context=context)
    executor.add_node(listener)
    begun = time.monotonic()
    try:
        with _process('node', _node_command(config)) as node:
            _wait_until_ready(executor, listener, node, config)
            with _process('player', _player_command(config)) as player:
                while player.running():
                    _spin(executor, listener, node, progress)
                player.check(BagError)
            _settle(executor, listener, node, progress)
            _save_map(executor, listener)
    finally:
        listener.destroy_node()
        executor.shutdown()
        rclpy.shutdown(context=context)
    listener.heard.wall_s = time.monotonic() - begun
    return listener.heard


class _Listener(Node):
    """Subscribes to the node's outputs."""

    def __init__(self, context: rclpy.Context) -> None:
        super().__init__('playback_listener', context=context, enable_rosout=False)
        self.heard = Playback()
        self._started = time.monotonic()
        many = QoSProfile(depth=1000)
        self.create_subscription(
            PoseWithCovarianceStamped, f'/{NODE_NAME}/pose', self._on_pose, many
        )
        self.create_subscription(PointCloud2, f'/{NODE_NAME}/points', self._on_points, many)
        self.create_subscription(DiagnosticArray, '/diagnostics', self._on_diagnostics, many)
        self.save_map: Client = self.create_client(Trigger, f'/{NODE_NAME}/save_map')

    def _on_pose(self, message: PoseWithCovarianceStamped) -> None:
        heard = self.heard
        if not heard.stamps_ns:
            heard.first_pose_s = time.monotonic() - self._started
        heard.stamps_ns.append(stamp_to_ns(message.header.stamp))
        heard.map_from_camera.append(matrix_of_pose(message.pose.pose))

    def _on_points(self, message: PointCloud2) -> None:
        self.heard.windows += 1
        self.heard.points += message.width * message.height

    def _on_diagnostics(self, message: DiagnosticArray) -> None:
        for status in message.status:
            self.heard.diagnostics.update({value.key: value.value for value in status.values})


class _Process:
    """A child process whose output goes to a file and is shown when it fails."""

    def __init__(self, name: str, command: list[str], log_path: Path) -> None:
        self._name, self._log_path = name, log_path
        with log_path.open('wb') as log:
            self._child = subprocess.Popen(
                command, stdout=log, stderr=subprocess.STDOUT, start_new_session=True
            )

    def running(self) -> bool:
        return self._child.poll() is None

    def check(self, error: type[BagError] | type[EngineError]) -> None:
        """Raise, with the last line that the process said, if it failed."""
        code = self._child.poll()
        if code:
            lines = self._log_path.read_text(errors='replace').strip().splitlines()
            raise error(lines[-1] if lines else f'the {self._name} ended with status {code}')

    def stop(self) -> None:
        if self.running():
            self._child.send_signal(signal.SIGINT)
            try:
                self._child.wait(STOP_TIMEOUT_S)
            except subprocess.TimeoutExpired:
                self._child.kill()
                self._child.wait()


@contextmanager
def _process(name: str, command: list[str]) -> Iterator[_Process]:
    with tempfile.TemporaryDirectory(prefix='qvggt_') as folder:
        process = _Process(name, command, Path(folder) / f'{name}.log')
        try:
            yield process
        finally:
            process.stop()


def _node_command(config: PlaybackConfig) -> list[str]:
    parameters = {
        'bundle': str(config.bundle),
        'autostart': 'true',
        'save_map_path': str(config.map_path),
        'image_transport': 'compressed' if config.compressed else 'raw',
        **config.node_parameters,
    }
    remaps = {'__node': NODE_NAME, 'image_raw': IMAGE_TOPIC, 'camera_info': CAMERA_INFO_TOPIC}
    return _ros_command('qvggt_ros.node.reconstruct_node', parameters, remaps)


def _player_command(config: PlaybackConfig) -> list[str]:
    parameters = {'bag': str(config.bag), 'rate': str(float(config.rate))}
    if config.image_topic:
        parameters['image_topic'] = config.image_topic
    if config.lockstep:
        parameters['wait_for'] = f'/{NODE_NAME}/pose'
    remaps = {'image_raw': IMAGE_TOPIC, 'camera_info': CAMERA_INFO_TOPIC}
    return _ros_command('qvggt_ros.node.bag_player', parameters, remaps)


def _ros_command(module: str, parameters: dict[str, str], remaps: dict[str, str]) -> list[str]:
    words = [sys.executable, '-m', module, '--ros-args']
    for name, value in parameters.items():
        words += ['-p', f'{name}:={value}']
    for name, target in remaps.items():
        words += ['-r', f'{name}:={target}']
    return words


def _own_domain() -> int:
    """Keep to a domain of our own, on this machine alone, unless the user chose one."""
    os.environ.setdefault('ROS_AUTOMATIC_DISCOVERY_RANGE', 'LOCALHOST')
    os.environ.setdefault('ROS_DOMAIN_ID', str(random.randint(1, 100)))
    return int(os.environ['ROS_DOMAIN_ID'])


def _spin(
    executor: SingleThreadedExecutor,
    listener: _Listener,
    node: _Process,
    progress: Callable[[int], None],
) -> None:
    executor.spin_once(timeout_sec=0.1)
    progress(len(listener.heard.stamps_ns))
    if not node.running():
        node.check(EngineError)
        raise EngineError('the node ended while the recording was being played')


def _wait_until_ready(
    executor: SingleThreadedExecutor, listener: _Listener, node: _Process, config: PlaybackConfig
) -> None:
    """Wait until the node listens for images."""
    deadline = time.monotonic() + NODE_READY_TIMEOUT_S
    topic = f'{IMAGE_TOPIC}/compressed' if config.compressed else IMAGE_TOPIC
    while listener.count_subscribers(topic) == 0:
        _spin(executor, listener, node, lambda _: None)
        if time.monotonic() > deadline:
            raise EngineError(f'the node was not ready after {NODE_READY_TIMEOUT_S:.0f} s')


def _settle(
    executor: SingleThreadedExecutor,
    listener: _Listener,
    node: _Process,
    progress: Callable[[int], None],
) -> None:
    """Wait for the last windows: until nothing has come for a while."""
    quiet_s = 5.0  # the node gives waiting frames their poses after 2 s of silence
    deadline = time.monotonic() + SETTLE_TIMEOUT_S
    last_count, last_change = -1, time.monotonic()
    while time.monotonic() < min(deadline, last_change + quiet_s):
        _spin(executor, listener, node, progress)
        if len(listener.heard.stamps_ns) != last_count:
            last_count, last_change = len(listener.heard.stamps_ns), time.monotonic()


def _save_map(executor: SingleThreadedExecutor, listener: _Listener) -> None:
    future = listener.save_map.call_async(Trigger.Request())
    executor.spin_until_future_complete(future, timeout_sec=STOP_TIMEOUT_S)
    answer = future.result() if future.done() else None
    if answer is None or not answer.success:
        raise EngineError(f'the map was not saved: {answer.message if answer else "no answer"}')
