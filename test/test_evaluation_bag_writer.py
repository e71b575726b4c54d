# Copyright 2026 qvggt_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Bags, read back with rosbags: bytes, stamps to the nanosecond, whole or not at all."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from rosbags.highlevel import AnyReader
from ruamel.yaml import YAML

from qvggt_ros.errors import BagError, UsageError
from qvggt_ros.evaluation.bag_writer import BagTopics, CameraBagWriter

STAMP_NS = 1_700_000_000_123_456_789
PIXELS = np.arange(4 * 6 * 3, dtype=np.uint8).reshape(4, 6, 3)
PIXELS[0, :3] = [(255, 0, 0), (0, 255, 0), (0, 0, 255)]
MATRIX = np.array([[50.0, 0.0, 3.0], [0.0, 51.0, 2.0], [0.0, 0.0, 1.0]])


def read(path: Path) -> dict[str, list[tuple[int, Any]]]:
    found: dict[str, list[tuple[int, Any]]] = {}
    with AnyReader([path]) as reader:
        for connection, time_ns, raw in reader.messages():
            message = reader.deserialize(raw, connection.msgtype)
            found.setdefault(connection.topic, []).append((time_ns, message))
    return found


@pytest.mark.parametrize('storage', ['mcap', 'sqlite3'])
@pytest.mark.parametrize('encoding', ['rgb8', 'bgr8'])
def test_raw_images_come_back_byte_for_byte(storage: str, encoding: str, tmp_path: Path) -> None:
    with CameraBagWriter(tmp_path / 'bag', storage) as bag:
        bag.write_image(STAMP_NS, PIXELS, encoding)
        bag.write_image(STAMP_NS + 1, PIXELS[::-1], encoding)
    (first, second) = read(tmp_path / 'bag')['/camera/image_raw']
    assert (first[0], second[0]) == (STAMP_NS, STAMP_NS + 1)
    message = first[1]
    assert (message.header.stamp.sec, message.header.stamp.nanosec) == (1_700_000_000, 123_456_789)
    assert message.header.frame_id == 'camera_optical_frame'
    assert (message.height, message.width, message.step) == (4, 6, 18)
    assert (message.encoding, message.is_bigendian) == (encoding, 0)
    red = b'\xff\x00\x00' if encoding == 'rgb8' else b'\x00\x00\xff'
    assert message.data.tobytes()[:3] == red
    pixels = message.data.reshape(4, 6, 3)
    assert np.array_equal(pixels if encoding == 'rgb8' else pixels[..., ::-1], PIXELS)


def test_png_is_lossless_and_jpeg_is_near(tmp_path: Path) -> None:
    smooth = np.full((16, 16, 3), 90, dtype=np.uint8)
    with CameraBagWriter(tmp_path / 'bag') as bag:
        bag.write_image(STAMP_NS, PIXELS, 'png')
        bag.write_image(STAMP_NS + 5, smooth, 'jpeg')
        bag.write_compressed_image(STAMP_NS + 6, b'any bytes', 'jpeg')
    png, jpeg, raw = (m for _, m in read(tmp_path / 'bag')['/camera/image_raw/compressed'])
    assert (png.format, jpeg.format) == ('png', 'jpeg')
    assert np.array_equal(np.array(Image.open(io.BytesIO(png.data.tobytes()))), PIXELS)
    decoded = np.array(Image.open(io.BytesIO(jpeg.data.tobytes()))).astype(int)
    assert np.abs(decoded - 90).max() <= 1
    assert raw.data.tobytes() == b'any bytes'


def test_depth_in_metres_and_millimetres(tmp_path: Path) -> None:
    metres = np.array([[0.5, np.nan, 2.25]], dtype=np.float32)
    millimetres = np.array([[500, 0, 65535]], dtype=np.uint16)
    with CameraBagWriter(tmp_path / 'bag') as bag:
        bag.write_depth(STAMP_NS, metres)
        bag.write_depth(STAMP_NS + 1, millimetres)
    first, second = (m for _, m in read(tmp_path / 'bag')['/ground_truth/depth'])
    assert (first.encoding, first.step) == ('32FC1', 12)
    assert (second.encoding, second.step) == ('16UC1', 6)
    assert first.data.tobytes() == metres.tobytes()
    assert second.data.tobytes() == millimetres.tobytes()


def test_camera_info_is_a_pinhole(tmp_path: Path) -> None:
    with CameraBagWriter(tmp_path / 'bag') as bag:
        bag.write_camera_info(STAMP_NS, 6, 4, MATRIX)
    info = read(tmp_path / 'bag')['/camera/camera_info'][0][1]
    assert (info.width, info.height, info.distortion_model) == (6, 4, 'plumb_bob')
    assert info.d.tolist() == [0.0] * 5
    assert info.k.reshape(3, 3).tolist() == MATRIX.tolist()
    assert info.r.reshape(3, 3).tolist() == np.eye(3).tolist()
    assert info.p.reshape(3, 4)[:, :3].tolist() == MATRIX.tolist()
    assert info.p.reshape(3, 4)[:, 3].tolist() == [0.0] * 3


def test_a_pose_worked_by_hand(tmp_path: Path) -> None:
    # A camera that looks along the map's x axis: optical z is map x, optical x is map -y.
    pose = np.array(
        [[0.0, 0.0, 1.0, 1.5], [-1.0, 0.0, 0.0, -2.0], [0.0, -1.0, 0.0, 0.25], [0, 0, 0, 1.0]]
    )
    with CameraBagWriter(tmp_path / 'bag') as bag:
        bag.write_pose(STAMP_NS, pose)
    message = read(tmp_path / 'bag')['/ground_truth/pose'][0][1]
    assert message.header.frame_id == 'map'
    p, q = message.pose.position, message.pose.orientation
    assert (p.x, p.y, p.z) == (1.5, -2.0, 0.25)
    assert (q.x, q.y, q.z, q.w) == pytest.approx((-0.5, 0.5, -0.5, 0.5))


def test_topics_and_frames_can_be_chosen(tmp_path: Path) -> None:
    topics = BagTopics(
        image='/front/rgb', camera_info='/front/info', camera_frame='front', map_frame='world'
    )
    with CameraBagWriter(tmp_path / 'bag', topics=topics) as bag:
        bag.write_image(STAMP_NS, PIXELS)
        bag.write_image(STAMP_NS, PIXELS, 'png')
        bag.write_pose(STAMP_NS, np.eye(4))
    found = read(tmp_path / 'bag')
    assert set(found) == {'/front/rgb', '/front/rgb/compressed', '/ground_truth/pose'}
    assert found['/front/rgb'][0][1].header.frame_id == 'front'
    assert found['/ground_truth/pose'][0][1].header.frame_id == 'world'


@pytest.mark.parametrize(('storage', 'suffix'), [('mcap', 'mcap'), ('sqlite3', 'db3')])
def test_the_folder_is_what_ros2_bag_expects(storage: str, suffix: str, tmp_path: Path) -> None:
    with CameraBagWriter(tmp_path / 'drive', storage) as bag:
        bag.write_image(STAMP_NS, PIXELS)
    assert {p.name for p in (tmp_path / 'drive').iterdir()} == {'metadata.yaml', f'drive.{suffix}'}
    text = (tmp_path / 'drive' / 'metadata.yaml').read_text()
    info = YAML(typ='safe').load(text)['rosbag2_bagfile_information']
    assert info['storage_identifier'] == storage
    assert info['relative_file_paths'] == [f'drive.{suffix}']
    assert info['message_count'] == 1
    assert info['version'] <= 8  # Humble knows no later one


@pytest.mark.parametrize('storage', ['mcap', 'sqlite3'])
def test_an_error_leaves_nothing(storage: str, tmp_path: Path) -> None:
    with (
        pytest.raises(RuntimeError, match='the camera broke'),
        CameraBagWriter(tmp_path / 'bag', storage) as bag,
    ):
        bag.write_image(STAMP_NS, PIXELS)
        raise RuntimeError('the camera broke')
    assert not list(tmp_path.iterdir())


def test_an_empty_bag_is_none(tmp_path: Path) -> None:
    with pytest.raises(BagError, match='not a single message'), CameraBagWriter(tmp_path / 'bag'):
        pass
    assert not list(tmp_path.iterdir())


def test_what_exists_is_not_overwritten(tmp_path: Path) -> None:
    (tmp_path / 'bag').write_text('mine')
    with pytest.raises(BagError, match='exists already'), CameraBagWriter(tmp_path / 'bag'):
        pass
    assert (tmp_path / 'bag').read_text() == 'mine'


def test_leftovers_of_a_killed_run_are_no_trouble(tmp_path: Path) -> None:
    (tmp_path / '.bag.partial' / 'bag').mkdir(parents=True)
    with CameraBagWriter(tmp_path / 'bag') as bag:
        bag.write_image(STAMP_NS, PIXELS)
    assert [p.name for p in tmp_path.iterdir()] == ['bag']


def test_a_folder_that_cannot_be_written_to(tmp_path: Path) -> None:
    (tmp_path / 'file').write_text('')
    with (
        pytest.raises(BagError, match='cannot be written'),
        CameraBagWriter(tmp_path / 'file' / 'bag'),
    ):
        pass


def test_wrong_values_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match='storage'):
        CameraBagWriter(tmp_path / 'bag', 'rosbag1')
    with CameraBagWriter(tmp_path / 'bag') as bag:
        bag.write_image(STAMP_NS, PIXELS)
        with pytest.raises(UsageError, match='encoding'):
            bag.write_image(STAMP_NS, PIXELS, 'mono8')
        with pytest.raises(UsageError, match='uint8'):
            bag.write_image(STAMP_NS, PIXELS.astype(np.float32))
        with pytest.raises(UsageError, match='depth'):
            bag.write_depth(STAMP_NS, np.zeros((2, 2)))
        for stamp_ns in (-1, 2**31 * 10**9):
            with pytest.raises(BagError, match='stamp'):
                bag.write_image(stamp_ns, PIXELS)


@settings(max_examples=15)
@given(st.lists(st.integers(0, 2**31 * 10**9 - 1), min_size=1, max_size=8, unique=True))
def test_any_stamp_survives(tmp_path_factory: pytest.TempPathFactory, stamps: list[int]) -> None:
    path = tmp_path_factory.mktemp('any') / 'bag'
    with CameraBagWriter(path) as bag:
        for stamp_ns in sorted(stamps):
            bag.write_image(stamp_ns, PIXELS)
    for (time_ns, message), stamp_ns in zip(
        read(path)['/camera/image_raw'], sorted(stamps), strict=True
    ):
        assert time_ns == stamp_ns
        assert message.header.stamp.sec * 10**9 + message.header.stamp.nanosec == stamp_ns
