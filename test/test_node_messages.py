# Copyright 2026 qvggt_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Clouds to the byte that RViz reads, stamps to the nanosecond."""

from __future__ import annotations

from array import array

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from rclpy.serialization import deserialize_message, serialize_message
from sensor_msgs.msg import Image, PointCloud2, PointField

from qvggt_ros.node.image_conversion import rgb_from_image
from qvggt_ros.node.messages import (
    cloud_message,
    header,
    ns_to_stamp,
    pose_message,
    stamp_to_ns,
)
from qvggt_ros.reconstruction.cloud import PointCloud
from qvggt_ros.reconstruction.geometry import pose_matrix, rotation_from_quaternion

# The float32 that RViz and PCL read as 0x00RRGGBB lies little-endian: blue, green, red, nothing.
BYTES_BGR0 = {
    'red': ((255, 0, 0), b'\x00\x00\xff\x00'),
    'green': ((0, 255, 0), b'\x00\xff\x00\x00'),
    'blue': ((0, 0, 255), b'\xff\x00\x00\x00'),
}


def cloud(rgb: np.ndarray) -> PointCloud:
    count = len(rgb)
    xyz = np.arange(3 * count, dtype=np.float32).reshape(count, 3)
    return PointCloud(xyz, rgb.astype(np.uint8), np.linspace(1, 2, count, dtype=np.float32))


@pytest.mark.parametrize('encoding', ['rgb8', 'bgr8'])
@pytest.mark.parametrize(('colour', 'wanted'), BYTES_BGR0.values(), ids=BYTES_BGR0)
def test_pure_pixels_from_the_image_message_to_the_clouds_bytes(
    encoding: str, colour: tuple[int, int, int], wanted: bytes
) -> None:
    ordered = colour if encoding == 'rgb8' else colour[::-1]
    pixel = Image(height=1, width=1, encoding=encoding, step=3, data=array('B', ordered))
    message = cloud_message(cloud(rgb_from_image(pixel).reshape(1, 3)), header(0, 'map'))
    assert bytes(message.data[12:16]) == wanted
    (packed,) = np.frombuffer(message.data, np.uint32, count=1, offset=12)
    assert packed == colour[0] << 16 | colour[1] << 8 | colour[2]


def test_layout_and_bytes() -> None:
    message = cloud_message(cloud(np.array([[1, 2, 3], [4, 5, 6]])), header(5, 'map'))
    assert [(f.name, f.offset, f.datatype, f.count) for f in message.fields] == [
        (name, offset, PointField.FLOAT32, 1)
        for name, offset in (('x', 0), ('y', 4), ('z', 8), ('rgb', 12), ('confidence', 16))
    ]
    assert (message.height, message.width, message.point_step, message.row_step) == (1, 2, 20, 40)
    assert message.is_dense and not message.is_bigendian
    assert isinstance(message.data, array) and message.data.typecode == 'B'
    second = np.array([3, 4, 5], '<f4').tobytes() + bytes([6, 5, 4, 0])
    assert bytes(message.data[20:]) == second + np.float32(2).tobytes()


def test_numpy_reads_it_by_field_after_a_trip_through_the_middleware_format() -> None:
    source = cloud(np.random.default_rng(0).integers(0, 256, (50, 3)))
    sent = cloud_message(source, header(5, 'map'))
    received = deserialize_message(serialize_message(sent), PointCloud2)
    dtype = np.dtype(
        {
            'names': [f.name for f in received.fields],
            'formats': ['<f4'] * len(received.fields),
            'offsets': [f.offset for f in received.fields],
            'itemsize': received.point_step,
        }
    )
    points = np.frombuffer(received.data, dtype)
    np.testing.assert_array_equal(np.c_[points['x'], points['y'], points['z']], source.xyz)
    np.testing.assert_array_equal(points['confidence'], source.confidence)
    packed = points['rgb'].copy().view(np.uint32)
    np.testing.assert_array_equal(np.c_[packed >> 16, packed >> 8 & 255, packed & 255], source.rgb)


def test_an_empty_cloud_is_a_message_too() -> None:
    message = cloud_message(cloud(np.empty((0, 3))), header(0, 'map'))
    assert message.width == 0 and len(message.data) == 0
    serialize_message(message)


@given(st.integers(0, (2**31 - 1) * 10**9 + 999_999_999))
def test_stamps_are_exact(stamp_ns: int) -> None:
    assert stamp_to_ns(ns_to_stamp(stamp_ns)) == stamp_ns


def test_pose_keeps_position_and_orientation() -> None:
    half = np.sqrt(0.5)
    message = pose_message(pose_matrix(rotation_from_quaternion([0, 0, half, half]), [1, 2, 3]))
    assert (message.position.x, message.position.y, message.position.z) == (1, 2, 3)
    assert message.orientation.z == pytest.approx(half)
    assert message.orientation.w == pytest.approx(half)
