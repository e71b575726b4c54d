# Copyright 2026 qvggt_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Write camera recordings with ground truth as ROS 2 bags. No ROS is needed.

A bag is a folder with metadata.yaml and one MCAP or sqlite3 file, as `ros2 bag play` of any
distribution from Humble on expects it. It appears whole or not at all.
"""

from __future__ import annotations

import io
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray
from PIL import Image
from rosbags.rosbag2 import StoragePlugin, Writer
from rosbags.typesys import Stores, get_typestore

from qvggt_ros.errors import BagError, UsageError
from qvggt_ros.reconstruction.geometry import quaternion_from_rotation

STORAGES = {'mcap': StoragePlugin.MCAP, 'sqlite3': StoragePlugin.SQLITE3}
RAW_ENCODINGS = ('rgb8', 'bgr8')
COMPRESSED_ENCODINGS = ('jpeg', 'png')
ENCODINGS = RAW_ENCODINGS + COMPRESSED_ENCODINGS
JPEG_QUALITY = 95

# Version 9 metadata came with Jazzy; Humble and everything after it read version 8.
_METADATA_VERSION: Literal[8] = 8
_NS_PER_S = 1_000_000_000
_LATEST_STAMP_NS = 2**31 * _NS_PER_S  # header stamps count seconds in an int32


@dataclass(frozen=True)
class BagTopics:
    """Topics and frames of a camera recording."""

    image: str = '/camera/image_raw'
    camera_info: str = '/camera/camera_info'
    pose: str = '/ground_truth/pose'
    depth: str = '/ground_truth/depth'
    camera_frame: str = 'camera_optical_frame'  # x right, y down, z forward (REP 103)
    map_frame: str = 'map'  # z up (REP 103)

    @property
    def compressed_image(self) -> str:
        """Where compressed images go, as image_transport names it."""
        return f'{self.image}/compressed'


class CameraBagWriter:
    """A bag in the making; use it in a `with` statement, which discards it on any error."""

    def __init__(
        self, path: Path | str, storage: str = 'mcap', topics: BagTopics | None = None
    ) -> None:
        """Remember what to write.

        Args:
            path: the folder that is to appear.
            storage: 'mcap' or 'sqlite3'.
            topics: names; None takes the usual ones.

        Raises:
            UsageError: unknown storage.

        """
        if storage not in STORAGES:
            raise UsageError(f'storage {storage!r}: must be one of {", ".join(STORAGES)}')
        self.path = Path(path)
        self.topics = topics or BagTopics()
        self._storage = STORAGES[storage]
        # The file in a bag is named after its folder, so the unfinished folder has its final
        # name already, inside a hidden one.
        self._hidden = self.path.parent / f'.{self.path.name}.partial'
        self._types = get_typestore(Stores.ROS2_HUMBLE)
        self._connections: dict[str, Any] = {}
        self._messages = 0

    def __enter__(self) -> CameraBagWriter:
        """Begin.

        Raises:
            BagError: the path exists already, or its folder cannot be written to.

        """
        if self.path.exists():
            raise BagError(f'{self.path}: exists already; remove it or choose another name')
        try:
            shutil.rmtree(self._hidden, ignore_errors=True)
            self._hidden.mkdir(parents=True)
            self._writer = Writer(
                self._hidden / self.path.name,
                version=_METADATA_VERSION,
                storage_plugin=self._storage,
            )
            self._writer.open()
        except OSError as error:
            raise BagError(f'{self.path}: cannot be written: {error}') from error
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Finish the bag and let it appear, or remove what there is of it.

        Raises:
            BagError: nothing was written, or the disk refuses.

        """
        try:
            self._written(self._writer.close)
            if kind is None:
                if not self._messages:
                    raise BagError(f'{self.path}: not a single message to write')
                self._written(lambda: (self._hidden / self.path.name).rename(self.path))
        finally:
            shutil.rmtree(self._hidden, ignore_errors=True)

    def write_image(
        self, stamp_ns: int, pixels: NDArray[np.uint8], encoding: str = 'rgb8'
    ) -> None:
        """Write an image.

        Args:
            stamp_ns: of the header and of the recording.
            pixels: RGB, [H, W, 3], whatever the encoding.
            encoding: 'rgb8' or 'bgr8' for a raw Image, 'jpeg' or 'png' for a CompressedImage.

        Raises:
            UsageError: unknown encoding, or pixels of another shape or type.

        """
        if pixels.dtype != np.uint8 or pixels.ndim != 3 or pixels.shape[2] != 3:
            raise UsageError(f'image {pixels.dtype} {pixels.shape}: must be uint8 [H, W, 3]')
        if encoding in COMPRESSED_ENCODINGS:
            buffer = io.BytesIO()
            Image.fromarray(pixels).save(buffer, encoding, quality=JPEG_QUALITY)
            self.write_compressed_image(stamp_ns, buffer.getvalue(), encoding)
            return
        if encoding not in RAW_ENCODINGS:
            raise UsageError(f'encoding {encoding!r}: must be one of {", ".join(ENCODINGS)}')
        if encoding == 'bgr8':
            pixels = pixels[:, :, ::-1]
        self._write_array(self.topics.image, stamp_ns, encoding, np.ascontiguousarray(pixels))

    def write_compressed_image(self, stamp_ns: int, data: bytes, file_format: str) -> None:
        """Write the bytes of an image file as a CompressedImage; 'jpeg' or 'png'."""
        kind = 'sensor_msgs/msg/CompressedImage'
        message = self._types.types[kind](
            header=self._header(stamp_ns, self.topics.camera_frame),
            format=file_format,
            data=np.frombuffer(data, np.uint8),
        )
        self._write(self.topics.compressed_image, kind, stamp_ns, message)

    def write_depth(self, stamp_ns: int, depth: NDArray[Any]) -> None:
        """Write a depth image: float32 metres as 32FC1 or uint16 millimetres as 16UC1, [H, W].

        Raises:
            UsageError: another shape or type.

        """
        encodings = {np.dtype(np.float32): '32FC1', np.dtype(np.uint16): '16UC1'}
        if depth.ndim != 2 or depth.dtype not in encodings:
            raise UsageError(
                f'depth {depth.dtype} {depth.shape}: must be float32 or uint16 [H, W]'
            )
        encoding = encodings[depth.dtype]
        self._write_array(self.topics.depth, stamp_ns, encoding, np.ascontiguousarray(depth))

    def write_camera_info(
        self, stamp_ns: int, width: int, height: int, intrinsics: ArrayLike
    ) -> None:
        """Write the calibration of a pinhole camera without distortion; intrinsics [3, 3]."""
        kind = 'sensor_msgs/msg/CameraInfo'
        matrix = np.asarray(intrinsics, dtype=np.float64).reshape(3, 3)
        projection = np.zeros((3, 4))
        projection[:, :3] = matrix
        region = self._types.types['sensor_msgs/msg/RegionOfInterest']
        message = self._types.types[kind](
            header=self._header(stamp_ns, self.topics.camera_frame),
            height=height,
            width=width,
            distortion_model='plumb_bob',
            d=np.zeros(5),
            k=matrix.ravel(),
            r=np.eye(3).ravel(),
            p=projection.ravel(),
            binning_x=0,
            binning_y=0,
            roi=region(x_offset=0, y_offset=0, height=0, width=0, do_rectify=False),
        )
        self._write(self.topics.camera_info, kind, stamp_ns, message)

    def write_pose(self, stamp_ns: int, map_from_camera: ArrayLike) -> None:
        """Write the true pose of the camera's optical frame in the map, a rigid [4, 4]."""
        kind = 'geometry_msgs/msg/PoseStamped'
        matrix = np.asarray(map_from_camera, dtype=np.float64)
        types = self._types.types
        qx, qy, qz, qw = (float(part) for part in quaternion_from_rotation(matrix[:3, :3]))
        pose = types['geometry_msgs/msg/Pose'](
            position=types['geometry_msgs/msg/Point'](*(float(part) for part in matrix[:3, 3])),
            orientation=types['geometry_msgs/msg/Quaternion'](x=qx, y=qy, z=qz, w=qw),
        )
        header = self._header(stamp_ns, self.topics.map_frame)
        self._write(self.topics.pose, kind, stamp_ns, types[kind](header=header, pose=pose))

    def _write_array(self, topic: str, stamp_ns: int, encoding: str, values: NDArray[Any]) -> None:
        kind = 'sensor_msgs/msg/Image'
        message = self._types.types[kind](
            header=self._header(stamp_ns, self.topics.camera_frame),
            height=values.shape[0],
            width=values.shape[1],
            encoding=encoding,
            is_bigendian=0,
            step=values.strides[0],
            data=values.reshape(-1).view(np.uint8),
        )
        self._write(topic, kind, stamp_ns, message)

    def _header(self, stamp_ns: int, frame_id: str) -> Any:
        if not 0 <= stamp_ns < _LATEST_STAMP_NS:
            raise BagError(f'{self.path}: stamp {stamp_ns} ns: ROS stamps lie in 1970 .. 2038')
        seconds, nanoseconds = divmod(int(stamp_ns), _NS_PER_S)
        stamp = self._types.types['builtin_interfaces/msg/Time'](sec=seconds, nanosec=nanoseconds)
        return self._types.types['std_msgs/msg/Header'](stamp=stamp, frame_id=frame_id)

    def _write(self, topic: str, kind: str, stamp_ns: int, message: Any) -> None:
        if topic not in self._connections:
            self._connections[topic] = self._writer.add_connection(
                topic, kind, typestore=self._types
            )
        data = self._types.serialize_cdr(message, kind)
        connection = self._connections[topic]
        self._written(lambda: self._writer.write(connection, int(stamp_ns), data))
        self._messages += 1

    def _written(self, action: Callable[[], Any]) -> None:
        try:
            action()
        except OSError as error:
            raise BagError(f'{self.path}: cannot be written: {error}') from error
