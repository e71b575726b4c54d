# Copyright 2026 qvggt_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Small camera recordings for tests, and their messages as rosbags sees them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import cv2
import numpy as np
from rosbags.rosbag1 import Writer as Ros1Writer
from rosbags.rosbag2 import StoragePlugin, Writer
from rosbags.typesys import Stores, get_typestore

TYPES = get_typestore(Stores.ROS2_HUMBLE)
ROS1_TYPES = get_typestore(Stores.ROS1_NOETIC)
IMAGE_TOPIC, INFO_TOPIC = '/camera/image_raw', '/camera/camera_info'
FRAME_ID = 'camera_optical'
WIDTH, HEIGHT = 70, 56
FIRST_STAMP_NS = 1_700_000_000_123_456_789
PERIOD_NS = 100_000_007


def stamp_of(index: int) -> int:
    """Return the stamp of a frame: every digit counts."""
    return FIRST_STAMP_NS + index * PERIOD_NS


def pixels_of(index: int) -> np.ndarray:
    """Return the RGB image of a frame: moving stripes, bright red, middling green, dark blue."""
    v, u = np.mgrid[:HEIGHT, :WIDTH]
    wave = [1 + np.sin(0.3 * (u + v * k) + 0.2 * index) for k in (0, 1, -1)]
    return (np.stack(wave, axis=-1) * (120, 70, 20)).astype(np.uint8)


def header(index: int) -> Any:
    time_type = TYPES.types['builtin_interfaces/msg/Time']
    stamp = time_type(*divmod(stamp_of(index), 10**9))
    return TYPES.types['std_msgs/msg/Header'](stamp, FRAME_ID)


def image(index: int, encoding: str = 'rgb8') -> Any:
    pixels = pixels_of(index)
    if encoding == 'bgr8':
        pixels = np.ascontiguousarray(pixels[..., ::-1])
    kind = TYPES.types['sensor_msgs/msg/Image']
    return kind(header(index), HEIGHT, WIDTH, encoding, 0, WIDTH * 3, pixels.ravel())


def compressed_image(index: int) -> Any:
    data = cv2.imencode('.png', pixels_of(index)[..., ::-1])[1]
    return TYPES.types['sensor_msgs/msg/CompressedImage'](header(index), 'png', data.ravel())


def camera_info(index: int, focal: float = 60.0) -> Any:
    k = np.array([focal, 0, WIDTH / 2, 0, focal, HEIGHT / 2, 0, 0, 1])
    p = np.array([focal, 0, WIDTH / 2, 0, 0, focal, HEIGHT / 2, 0, 0, 0, 1, 0])
    region = TYPES.types['sensor_msgs/msg/RegionOfInterest'](0, 0, 0, 0, False)
    return TYPES.types['sensor_msgs/msg/CameraInfo'](
        header(index),
        HEIGHT,
        WIDTH,
        'plumb_bob',
        np.zeros(0),
        k,
        np.eye(3).ravel(),
        p,
        0,
        0,
        region,
    )


def write_bag(
    folder: Path,
    count: int,
    storage: StoragePlugin = StoragePlugin.MCAP,
    encoding: str = 'rgb8',
    with_info: bool = True,
) -> Path:
    """Write a ROS 2 recording; encoding `png` makes it one of compressed images."""
    compressed = encoding == 'png'
    kind = 'sensor_msgs/msg/CompressedImage' if compressed else 'sensor_msgs/msg/Image'
    topic = f'{IMAGE_TOPIC}/compressed' if compressed else IMAGE_TOPIC
    with Writer(folder, version=9, storage_plugin=storage) as writer:
        images = writer.add_connection(topic, kind, typestore=TYPES)
        info_type = 'sensor_msgs/msg/CameraInfo'
        infos = writer.add_connection(INFO_TOPIC, info_type, typestore=TYPES)
        for index in range(count):
            message = compressed_image(index) if compressed else image(index, encoding)
            if with_info:
                data = TYPES.serialize_cdr(camera_info(index), info_type)
                writer.write(infos, stamp_of(index), data)
            writer.write(images, stamp_of(index), TYPES.serialize_cdr(message, kind))
    return folder


def write_ros1_bag(path: Path, count: int) -> Path:
    """Write the same recording as ROS 1 would."""
    types = ROS1_TYPES.types
    with Ros1Writer(path) as writer:
        kind = 'sensor_msgs/msg/Image'
        images = writer.add_connection(IMAGE_TOPIC, kind, typestore=ROS1_TYPES)
        info_type = 'sensor_msgs/msg/CameraInfo'
        infos = writer.add_connection(INFO_TOPIC, info_type, typestore=ROS1_TYPES)
        for index in range(count):
            stamp = types['builtin_interfaces/msg/Time'](*divmod(stamp_of(index), 10**9))
            head = types['std_msgs/msg/Header'](seq=index, stamp=stamp, frame_id=FRAME_ID)
            new = camera_info(index)
            region = types['sensor_msgs/msg/RegionOfInterest'](0, 0, 0, 0, False)
            info = types[info_type](
                head, HEIGHT, WIDTH, 'plumb_bob', new.d, new.k, new.r, new.p, 0, 0, region
            )
            writer.write(infos, stamp_of(index), ROS1_TYPES.serialize_ros1(info, info_type))
            old = types[kind](head, HEIGHT, WIDTH, 'rgb8', 0, WIDTH * 3, pixels_of(index).ravel())
            writer.write(images, stamp_of(index), ROS1_TYPES.serialize_ros1(old, kind))
    return path
