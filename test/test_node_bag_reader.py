# Copyright 2026 qvggt_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Recordings are read whole, whatever their format; bad ones get one line that names them."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Literal

import camera_bags
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from rosbags.rosbag2 import StoragePlugin

from qvggt_ros.errors import BagError
from qvggt_ros.node.bag_reader import IMAGE_TYPE, BagReader, header_stamp_ns
from qvggt_ros.node.image_conversion import rgb_from_message

COUNT = 4


def read_images(path: Path) -> list[tuple[int, np.ndarray]]:
    with BagReader(path) as bag:
        topic = bag.image_topic()
        return [
            (message.stamp_ns, rgb_from_message(bag.decode(message)))
            for message in bag.messages([topic.name])
        ]


def write(kind: str, folder: Path) -> Path:
    if kind == 'ros1':
        return camera_bags.write_ros1_bag(folder.with_suffix('.bag'), COUNT)
    storage = StoragePlugin.SQLITE3 if kind == 'sqlite3' else StoragePlugin.MCAP
    encoding = kind if kind in ('bgr8', 'png') else 'rgb8'
    return camera_bags.write_bag(folder, COUNT, storage, encoding)


@pytest.mark.parametrize('kind', ['mcap', 'sqlite3', 'ros1', 'bgr8', 'png'])
def test_images_and_stamps_are_those_written(kind: str, tmp_path: Path) -> None:
    images = read_images(write(kind, tmp_path / 'bag'))
    assert [stamp for stamp, _ in images] == [camera_bags.stamp_of(i) for i in range(COUNT)]
    for index, (_, pixels) in enumerate(images):
        np.testing.assert_array_equal(pixels, camera_bags.pixels_of(index))


@pytest.mark.parametrize('kind', ['mcap', 'sqlite3', 'ros1'])
def test_calibration_is_found_beside_the_images(kind: str, tmp_path: Path) -> None:
    with BagReader(write(kind, tmp_path / 'bag')) as bag:
        topic = bag.camera_info_topic(bag.image_topic().name)
        assert topic is not None and topic.name == camera_bags.INFO_TOPIC
        infos = [bag.decode(message) for message in bag.messages([topic.name])]
    assert len(infos) == COUNT
    np.testing.assert_array_equal(infos[0].k, camera_bags.camera_info(0).k)
    assert infos[0].header.frame_id == camera_bags.FRAME_ID


def test_a_single_file_is_a_bag_too(tmp_path: Path) -> None:
    folder = write('mcap', tmp_path / 'bag')
    (file,) = folder.glob('*.mcap')
    assert len(read_images(file)) == COUNT


def test_cdr_is_byte_for_byte_what_was_written(tmp_path: Path) -> None:
    with BagReader(write('mcap', tmp_path / 'bag')) as bag:
        first = next(bag.messages([camera_bags.IMAGE_TOPIC]))
    written = camera_bags.TYPES.serialize_cdr(camera_bags.image(0), IMAGE_TYPE)
    assert first.cdr == bytes(written)


def refusal(path: Path) -> str:
    with pytest.raises(BagError) as caught:
        read_images(path)
    message = str(caught.value)
    assert '\n' not in message and str(path) in message
    return message


def test_missing(tmp_path: Path) -> None:
    assert 'no such bag' in refusal(tmp_path / 'absent.mcap')


def test_folder_that_is_no_bag(tmp_path: Path) -> None:
    assert 'not a readable bag' in refusal(tmp_path)


@pytest.mark.parametrize('suffix', ['.mcap', '.db3', '.bag', '.txt'])
@pytest.mark.parametrize('content', [b'', b'this is no bag at all, whatever it is called'])
def test_foreign_file(suffix: str, content: bytes, tmp_path: Path) -> None:
    path = tmp_path / f'foreign{suffix}'
    path.write_bytes(content)
    assert 'not a readable bag' in refusal(path)


@pytest.mark.parametrize('kind', ['mcap', 'sqlite3', 'ros1'])
@pytest.mark.parametrize('share', [0.1, 0.5, 0.95])
def test_truncated_at_any_place(kind: str, share: float, tmp_path: Path) -> None:
    path = write(kind, tmp_path / 'bag')
    file = path if path.is_file() else next(f for f in path.iterdir() if f.suffix != '.yaml')
    whole = file.read_bytes()
    file.write_bytes(whole[: int(share * len(whole))])
    refusal(path)


def test_bag_without_images_says_what_it_holds(shared_dir: Path) -> None:
    message = refusal(shared_dir / 'data' / 'nav2_turtlebot.mcap')
    assert 'no images' in message and '/tf (tf2_msgs/msg/TFMessage' in message


def test_wanted_topic_that_is_not_there(tmp_path: Path) -> None:
    with BagReader(write('mcap', tmp_path / 'bag')) as bag:
        with pytest.raises(BagError, match=r'no images on /other; it holds .*/camera/image_raw'):
            bag.image_topic('/other')
        with pytest.raises(BagError, match='no camera_info on /other'):
            bag.camera_info_topic(camera_bags.IMAGE_TOPIC, '/other')
        assert bag.camera_info_topic('/elsewhere/image_raw') is None


@given(st.integers(0, 2**31 - 1), st.integers(0, 10**9 - 1), st.booleans(), st.binary())
def test_stamp_is_read_from_either_byte_order(
    seconds: int, nanoseconds: int, little: bool, rest: bytes
) -> None:
    order: Literal['little', 'big'] = 'little' if little else 'big'
    cdr = bytes([0, little, 0, 0]) + seconds.to_bytes(4, order) + nanoseconds.to_bytes(4, order)
    assert header_stamp_ns(cdr + rest) == seconds * 10**9 + nanoseconds


def test_message_without_room_for_a_header() -> None:
    with pytest.raises(BagError, match='too short'):
        header_stamp_ns(b'\0\1\0\0')


def test_reading_needs_no_ros() -> None:
    code = (
        'import sys, qvggt_ros.node.bag_reader, qvggt_ros.node.image_conversion\n'
        'sys.exit("rclpy" in sys.modules or "torch" in sys.modules)'
    )
    subprocess.run([sys.executable, '-c', code], check=True)
