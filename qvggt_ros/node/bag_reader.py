# Copyright 2026 qvggt_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Read a camera recording: MCAP or sqlite3 of ROS 2, `.bag` of ROS 1. No ROS is needed.

Everything that can be wrong with a bag becomes one BagError that names it.
"""

from __future__ import annotations

import struct
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

from rosbags.highlevel import AnyReader
from rosbags.typesys import Stores, get_typestore

from qvggt_ros.errors import BagError

IMAGE_TYPE = 'sensor_msgs/msg/Image'
COMPRESSED_TYPE = 'sensor_msgs/msg/CompressedImage'
CAMERA_INFO_TYPE = 'sensor_msgs/msg/CameraInfo'
IMAGE_TYPES = (IMAGE_TYPE, COMPRESSED_TYPE)
NS_PER_S = 1_000_000_000

# What a bag without type definitions is read with, and what ROS 1 messages become.
ROS2_TYPES = Stores.ROS2_HUMBLE


@dataclass(frozen=True)
class BagTopic:
    """A topic of the bag."""

    name: str
    type_name: str
    count: int


@dataclass(frozen=True)
class BagMessage:
    """A message as it lies in the bag.

    Attributes:
        topic, type_name: which and what.
        bag_time_ns: when it was recorded.
        cdr: serialised as ROS 2 does.

    """

    topic: str
    type_name: str
    bag_time_ns: int
    cdr: bytes

    @property
    def stamp_ns(self) -> int:
        """Return the header's stamp of a message that begins with a header."""
        return header_stamp_ns(self.cdr)


class BagReader:
    """An open bag; use it in a `with` statement."""

    def __init__(self, path: Path | str) -> None:
        """Remember the path: a folder with metadata.yaml, or one .mcap, .db3 or .bag file."""
        self.path = Path(path)
        self._types = get_typestore(ROS2_TYPES)

    def __enter__(self) -> BagReader:
        """Open the bag.

        Raises:
            BagError: missing, truncated, or not a bag.

        """
        if not self.path.exists():
            raise BagError(f'{self.path}: no such bag')
        with self._named_faults():
            self._reader = AnyReader([self.path], default_typestore=self._types)
            self._reader.open()
        self.topics = {
            name: BagTopic(name, info.msgtype or 'several types', info.msgcount)
            for name, info in self._reader.topics.items()
        }
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Close the bag."""
        self._reader.close()

    def image_topic(self, wanted: str = '') -> BagTopic:
        """Return the topic with the images: `wanted`, or the first one that has any.

        Raises:
            BagError: there is none such; the message lists what there is.

        """
        images = [
            topic
            for topic in self.topics.values()
            if topic.type_name in IMAGE_TYPES and topic.count
        ]
        if wanted:
            images = [topic for topic in images if topic.name == wanted]
        if not images:
            what = f'no images on {wanted}' if wanted else 'no images'
            raise BagError(f'{self.path}: {what}; it holds {self._contents()}')
        return sorted(images, key=lambda topic: (topic.type_name != IMAGE_TYPE, topic.name))[0]

    def camera_info_topic(self, image_topic: str, wanted: str = '') -> BagTopic | None:
        """Return the calibration beside an image topic, None where there is none.

        Raises:
            BagError: `wanted` is given and is not there.

        """
        base = image_topic.removesuffix('/compressed').rpartition('/')[0]
        found = self.topics.get(wanted or f'{base}/camera_info')
        if found is not None and found.type_name == CAMERA_INFO_TYPE:
            return found
        if wanted:
            raise BagError(f'{self.path}: no camera_info on {wanted}; it holds {self._contents()}')
        return None

    def messages(self, topics: Collection[str]) -> Iterator[BagMessage]:
        """Yield the messages of some topics in the order of recording.

        Raises:
            BagError: the file breaks off or a message cannot be read.

        """
        chosen = [c for c in self._reader.connections if c.topic in topics]
        if not chosen:
            return
        with self._named_faults():
            for connection, time_ns, raw in self._reader.messages(connections=chosen):
                cdr = bytes(raw) if self._reader.is2 else self._cdr_from_ros1(raw, connection)
                yield BagMessage(connection.topic, connection.msgtype, time_ns, cdr)

    def decode(self, message: BagMessage) -> Any:
        """Return a message's fields, named as in ROS 2.

        Raises:
            BagError: its bytes do not fit its type.

        """
        with self._named_faults():
            if self._reader.is2:
                return self._reader.typestore.deserialize_cdr(message.cdr, message.type_name)
            return self._types.deserialize_cdr(message.cdr, message.type_name)

    def _cdr_from_ros1(self, raw: bytes, connection: Any) -> bytes:
        old = self._reader.typestore.deserialize_ros1(raw, connection.msgtype)
        new = _as_ros2(old, connection.msgtype, self._types)
        return bytes(self._types.serialize_cdr(new, connection.msgtype))

    def _contents(self) -> str:
        listed = [f'{t.name} ({t.type_name}, {t.count})' for t in self.topics.values()]
        return ', '.join(listed) or 'no topics'

    @contextmanager
    def _named_faults(self) -> Iterator[None]:
        """Turn whatever the reader raises on a bad file into a BagError of one line."""
        try:
            yield
        except BagError:
            raise
        # The reader's own classes, and whatever its parsers meet in a damaged file: struct.error,
        # AssertionError, UnicodeDecodeError, zlib.error, sqlite3.DatabaseError, OSError ...
        except Exception as error:
            reason = ' '.join(str(error).split()) or type(error).__name__
            raise BagError(
                f'{self.path}: not a readable bag (MCAP, sqlite3 or ROS 1): {reason}'
            ) from error


def header_stamp_ns(cdr: bytes) -> int:
    """Return the stamp of a CDR message that begins with a std_msgs/Header.

    Raises:
        BagError: the message is too short.

    """
    if len(cdr) < 12:
        raise BagError(f'message of {len(cdr)} bytes: too short for a header')
    order = '<' if cdr[1] & 1 else '>'
    seconds, nanoseconds = struct.unpack_from(f'{order}iI', cdr, 4)
    return int(seconds) * NS_PER_S + int(nanoseconds)


def _as_ros2(value: Any, type_name: str, types: Any) -> Any:
    """Rebuild a ROS 1 message as the ROS 2 type of that name, field by field.

    ROS 2 dropped Header.seq and writes CameraInfo's D, K, R, P small.
    """
    if type_name in ('builtin_interfaces/msg/Time', 'time'):
        return types.types['builtin_interfaces/msg/Time'](sec=value.sec, nanosec=value.nanosec)
    arguments = {}
    for name, (kind, detail) in types.fielddefs[type_name][1]:
        old = getattr(value, name) if hasattr(value, name) else getattr(value, name.upper())
        is_message = int(kind) == 2  # a single nested message
        arguments[name] = _as_ros2(old, detail, types) if is_message else old
    return types.types[type_name](**arguments)
