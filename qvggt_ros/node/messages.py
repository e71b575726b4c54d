# Copyright 2026 qvggt_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Reconstruction results as ROS messages, and stamps as whole nanoseconds."""

from __future__ import annotations

from array import array

import numpy as np
from builtin_interfaces.msg import Time
from geometry_msgs.msg import Point, Pose, Quaternion
from numpy.typing import NDArray
from sensor_msgs.msg import PointCloud2, PointField
from std_msgs.msg import Header

from qvggt_ros.reconstruction.cloud import PointCloud
from qvggt_ros.reconstruction.geometry import Float64Array, quaternion_from_rotation

NS_PER_S = 1_000_000_000

# What PCL and RViz read: `rgb` is a float32 whose bits are 0x00RRGGBB, so bytes B, G, R, 0.
POINT_DTYPE = np.dtype(
    [
        ('x', '<f4'),
        ('y', '<f4'),
        ('z', '<f4'),
        ('b', 'u1'),
        ('g', 'u1'),
        ('r', 'u1'),
        ('zero', 'u1'),
        ('confidence', '<f4'),
    ]
)
_FIELD_OFFSETS = {'x': 0, 'y': 4, 'z': 8, 'rgb': 12, 'confidence': 16}


def stamp_to_ns(stamp: Time) -> int:
    """Return a stamp in nanoseconds, exactly."""
    return int(stamp.sec) * NS_PER_S + int(stamp.nanosec)


def ns_to_stamp(stamp_ns: int) -> Time:
    """Return nanoseconds as a stamp, exactly."""
    return Time(sec=stamp_ns // NS_PER_S, nanosec=stamp_ns % NS_PER_S)


def header(stamp_ns: int, frame_id: str) -> Header:
    """Return a header."""
    return Header(stamp=ns_to_stamp(stamp_ns), frame_id=frame_id)


def pose_message(pose: Float64Array) -> Pose:
    """Return a rigid motion [4, 4] as a pose."""
    x, y, z = (float(value) for value in pose[:3, 3])
    qx, qy, qz, qw = (float(value) for value in quaternion_from_rotation(pose[:3, :3]))
    return Pose(position=Point(x=x, y=y, z=z), orientation=Quaternion(x=qx, y=qy, z=qz, w=qw))


def cloud_message(cloud: PointCloud, cloud_header: Header) -> PointCloud2:
    """Return points as an unordered PointCloud2: x, y, z, rgb, confidence, 20 bytes a point."""
    points = np.empty(len(cloud), dtype=POINT_DTYPE)
    points['x'], points['y'], points['z'] = cloud.xyz.T
    points['r'], points['g'], points['b'] = cloud.rgb.T
    points['zero'] = 0
    points['confidence'] = cloud.confidence
    return PointCloud2(
        header=cloud_header,
        height=1,
        width=len(cloud),
        fields=[
            PointField(name=name, offset=offset, datatype=PointField.FLOAT32, count=1)
            for name, offset in _FIELD_OFFSETS.items()
        ],
        is_bigendian=False,
        point_step=POINT_DTYPE.itemsize,
        row_step=POINT_DTYPE.itemsize * len(cloud),
        is_dense=True,
        data=_byte_array(points),
    )


def _byte_array(values: NDArray[np.void]) -> array[int]:
    """Return an array's bytes as rclpy takes them fast: it checks `bytes` one by one."""
    data: array[int] = array('B')
    if values.size:
        data.frombytes(values.view(np.uint8).data)
    return data
