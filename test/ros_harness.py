# Copyright 2026 qvggt_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Real DDS for tests: a domain of one's own, listeners, node and player as processes."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

# Before rclpy makes its first context. Tests that run side by side must not hear each other.
DOMAIN_ID = random.SystemRandom().randint(1, 100)
os.environ['ROS_DOMAIN_ID'] = str(DOMAIN_ID)
os.environ['ROS_AUTOMATIC_DISCOVERY_RANGE'] = 'LOCALHOST'
os.environ['ROS_LOCALHOST_ONLY'] = '1'  # the same for Humble

import rclpy  # noqa: E402
from rclpy.executors import SingleThreadedExecutor  # noqa: E402
from rclpy.node import Node  # noqa: E402
from rclpy.qos import QoSProfile  # noqa: E402

PROJECT_DIR = Path(__file__).resolve().parent.parent
TIMEOUT_S = 60.0
MANY = QoSProfile(depth=1000)


class Ros:
    """A context with an executor that the test turns itself."""

    def __init__(self) -> None:
        self.context = rclpy.Context()
        rclpy.init(args=[], context=self.context)
        self.executor = SingleThreadedExecutor(context=self.context)
        self.nodes: list[Node] = []
        self.node = self.add(Node('test', context=self.context, enable_rosout=False))

    def add(self, node: Any) -> Any:
        """Turn a node's callbacks too."""
        self.nodes.append(node)
        self.executor.add_node(node)
        return node

    def heard(self, kind: type, topic: str, qos: QoSProfile = MANY) -> list[Any]:
        """Return a list that fills with a topic's messages."""
        messages: list[Any] = []
        self.node.create_subscription(kind, topic, messages.append, qos)
        return messages

    def until(self, condition: Callable[[], bool], timeout_s: float = TIMEOUT_S) -> None:
        """Turn until the condition holds."""
        deadline = time.monotonic() + timeout_s
        while not condition():
            assert time.monotonic() < deadline, 'did not happen in time'
            self.executor.spin_once(timeout_sec=0.05)

    def spin(self, seconds: float) -> None:
        """Turn for a while."""
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            self.executor.spin_once(timeout_sec=0.05)

    def call(self, kind: type, name: str, request: Any) -> Any:
        """Call a service and return its response."""
        client = self.node.create_client(kind, name)
        self.until(client.service_is_ready)
        future = client.call_async(request)
        self.until(future.done)
        return future.result()

    def close(self) -> None:
        """Take all down."""
        for node in self.nodes:
            node.destroy_node()
        self.executor.shutdown()
        rclpy.shutdown(context=self.context)


@contextmanager
def ros() -> Iterator[Ros]:
    """Give a fresh context."""
    made = Ros()
    try:
        yield made
    finally:
        made.close()


def command(module: str, *words: str, **parameters: Any) -> list[str]:
    """Return the command line of one of the package's executables; words are ROS arguments."""
    line = [sys.executable, '-m', f'qvggt_ros.node.{module}', '--ros-args', *words]
    for name, value in parameters.items():
        text = str(value).lower() if isinstance(value, bool) else str(value)
        line += ['-p', f'{name}:={text}']
    return line


@contextmanager
def process(line: list[str]) -> Iterator[subprocess.Popen[str]]:
    """Run a process; interrupt it at the end as a person would."""
    child = subprocess.Popen(
        line, cwd=PROJECT_DIR, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )
    try:
        yield child
    finally:
        stop(child)


def stop(child: subprocess.Popen[str]) -> str:
    """Interrupt a process and return what it said (what is left of it)."""
    if child.poll() is None:
        child.send_signal(signal.SIGINT)
    try:
        return child.communicate(timeout=20)[0]
    except subprocess.TimeoutExpired:
        child.kill()
        return child.communicate()[0]
    except ValueError:  # was read to its end before
        return ''


def run_to_end(line: list[str], timeout_s: float = TIMEOUT_S) -> tuple[int, str]:
    """Run a process to its own end; return its status and what it said."""
    done = subprocess.run(
        line,
        cwd=PROJECT_DIR,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        timeout=timeout_s,
        check=False,
    )
    return done.returncode, done.stdout
