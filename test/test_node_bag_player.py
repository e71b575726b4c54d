# Copyright 2026 qvggt_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""A recording comes out of the player as it went in, and goes through the node without loss."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import camera_bags
import numpy as np
import pytest
from geometry_msgs.msg import PoseWithCovarianceStamped
from ros_harness import Ros, command, process, ros, run_to_end, stop
from rosbags.rosbag2 import StoragePlugin
from sensor_msgs.msg import (
    CameraInfo,
    CompressedImage,
    Image,
    PointCloud2,
)
from small_networks import SMALL_FRAMES, small_bundle

from qvggt_ros.node.bag_player import ANSWER_QOS
from qvggt_ros.node.image_conversion import rgb_from_message
from qvggt_ros.node.messages import POINT_DTYPE, stamp_to_ns

COUNT = 12
STAMPS = [camera_bags.stamp_of(index) for index in range(COUNT)]


def player(recording: Path, **parameters: Any) -> list[str]:
    values = {'bag': recording, 'rate': 20.0, 'start_delay_s': 1.0, **parameters}
    return command('bag_player', **values)


def play_out(made: Ros, line: list[str]) -> tuple[int, str]:
    """Run the player to its end while the test's own node listens."""
    with process(line) as child:
        made.until(lambda: child.poll() is not None)
        said = stop(child)
    made.spin(0.2)
    assert child.returncode is not None
    return child.returncode, said


def stamps(messages: list[Any]) -> list[int]:
    return [stamp_to_ns(message.header.stamp) for message in messages]


@pytest.mark.parametrize('kind', ['sqlite3', 'ros1'])
def test_images_and_calibration_come_as_recorded(kind: str, tmp_path: Path) -> None:
    if kind == 'ros1':
        bag = camera_bags.write_ros1_bag(tmp_path / 'recording.bag', COUNT)
    else:
        bag = camera_bags.write_bag(tmp_path / 'recording', COUNT, StoragePlugin.SQLITE3)
    with ros() as made:
        images, infos = made.heard(Image, 'image_raw'), made.heard(CameraInfo, 'camera_info')
        status, said = play_out(made, player(bag))
    assert status == 0 and f'played {COUNT} images and {COUNT} camera_infos' in said
    assert stamps(images) == stamps(infos) == STAMPS
    for index, image in enumerate(images):
        np.testing.assert_array_equal(rgb_from_message(image), camera_bags.pixels_of(index))
        source = camera_bags.image(index)
        assert bytes(image.data) == source.data.tobytes()
        assert (image.encoding, image.step) == (source.encoding, source.step)
        assert image.header.frame_id == camera_bags.FRAME_ID


def test_compressed_images_go_beside_the_raw_topic(tmp_path: Path) -> None:
    bag = camera_bags.write_bag(tmp_path / 'recording', 3, encoding='png')
    with ros() as made:
        images = made.heard(CompressedImage, 'image_raw/compressed')
        assert play_out(made, player(bag))[0] == 0
    assert stamps(images) == STAMPS[:3]
    np.testing.assert_array_equal(rgb_from_message(images[2]), camera_bags.pixels_of(2))


def test_pace_is_the_recordings_times_the_rate(tmp_path: Path) -> None:
    bag = camera_bags.write_bag(tmp_path / 'recording', COUNT)
    with ros() as made:
        times: list[float] = []
        made.node.create_subscription(
            Image, 'image_raw', lambda message: times.append(time.monotonic()), 100
        )
        assert play_out(made, player(bag, rate=2.0))[0] == 0
    assert times[-1] - times[0] == pytest.approx((COUNT - 1) * 0.1 / 2, abs=0.15)


def test_loop_goes_on_until_interrupted(tmp_path: Path) -> None:
    bag = camera_bags.write_bag(tmp_path / 'recording', 3)
    with ros() as made:
        images = made.heard(Image, 'image_raw')
        with process(player(bag, loop=True)) as child:
            made.until(lambda: len(images) >= 8)
            said = stop(child)
        assert 'Traceback' not in said
    assert stamps(images)[:8] == [STAMPS[i % 3] for i in range(8)]


def test_max_images_ends_early(tmp_path: Path) -> None:
    bag = camera_bags.write_bag(tmp_path / 'recording', COUNT)
    with ros() as made:
        images = made.heard(Image, 'image_raw')
        assert play_out(made, player(bag, max_images=5))[0] == 0
    assert stamps(images) == STAMPS[:5]


@pytest.mark.parametrize(
    ('parameters', 'words'),
    [
        ({'bag': '/nowhere.mcap'}, '/nowhere.mcap: no such bag'),
        ({'image_topic': '/other'}, 'no images on /other'),
        ({'subscriber_timeout_s': 0.3}, 'nobody listens to /image_raw after 0.3 s'),
        ({'rate': 0.0}, 'rate'),
        ({'rate': 'fast'}, 'rate'),
    ],
    ids=lambda value: str(value)[:30],
)
def test_bad_input_is_one_line_and_status_2(
    parameters: dict[str, Any], words: str, tmp_path: Path
) -> None:
    bag = camera_bags.write_bag(tmp_path / 'recording', 2)
    status, said = run_to_end(player(bag, **parameters))
    assert status == 2 and 'Traceback' not in said
    assert len(said.strip().splitlines()) == 1 and words in said


def test_truncated_and_foreign_bags_are_one_line_and_status_2(
    tmp_path: Path, shared_dir: Path
) -> None:
    folder = camera_bags.write_bag(tmp_path / 'recording', 2)
    (file,) = folder.glob('*.mcap')
    file.write_bytes(file.read_bytes()[:2000])
    for bag in (folder, file, shared_dir / 'data' / 'nav2_turtlebot.mcap'):
        status, said = run_to_end(player(bag))
        assert status == 2 and 'Traceback' not in said
        assert len(said.strip().splitlines()) == 1 and str(bag) in said


def test_player_without_a_bag_says_so() -> None:
    status, said = run_to_end(command('bag_player'))
    assert status == 2 and 'parameter bag is empty' in said


def through_the_node(bag: Path, player_parameters: dict[str, Any]) -> tuple[list, list, str]:
    """Play a bag into a real node, both in processes of their own; return what it published."""
    node_line = command(
        'reconstruct_node',
        bundle=small_bundle(),
        autostart=True,
        threads=1,
        flush_after_s=0.5,
        image_timeout_s=60.0,
    )
    with ros() as made:
        poses = made.heard(PoseWithCovarianceStamped, '/reconstruct/pose', ANSWER_QOS)
        clouds = made.heard(PointCloud2, '/reconstruct/points')
        with process(node_line) as node:
            made.until(lambda: made.node.count_publishers('/reconstruct/points') == 1)
            made.spin(1.0)
            status, said = play_out(made, player(bag, **player_parameters))
            made.until(lambda: len(poses) >= COUNT or node.poll() is not None)
            made.spin(0.5)
            warned = [line for line in stop(node).splitlines() if 'WARN' in line]
            assert status == 0
            assert [line for line in warned if 'tf2_msgs is not installed' not in line] == []
            assert node.returncode == 0
    return poses, clouds, said


def test_lockstep_with_nobody_who_answers_says_so(tmp_path: Path) -> None:
    bag = camera_bags.write_bag(tmp_path / 'recording', 2)
    with ros() as made:
        made.heard(Image, 'image_raw')
        line = player(bag, wait_for='/absent/pose', subscriber_timeout_s=4.0)
        status, said = play_out(made, line)
    assert status == 2 and 'nobody publishes /absent/pose after 4 s' in said


@pytest.mark.slow
def test_a_recording_through_the_node_in_lockstep_loses_nothing(tmp_path: Path) -> None:
    bag = camera_bags.write_bag(tmp_path / 'recording', COUNT, encoding='bgr8')
    lockstep = {'wait_for': '/reconstruct/pose', 'max_in_flight': 4, 'rate': 1000.0}
    poses, clouds, said = through_the_node(bag, lockstep)
    assert stamps(poses) == STAMPS
    assert stamps(clouds) == STAMPS[SMALL_FRAMES - 1 :]  # every window: 3 frames, then 1 more
    assert f'{COUNT} answered' in said and 'given up' not in said
    points = np.concatenate([np.frombuffer(cloud.data, POINT_DTYPE) for cloud in clouds])
    assert len(points) and all(np.isfinite(points[axis]).all() for axis in 'xyz')
    # the pictures' mean colour, whatever the order of channels on the way
    wanted = np.mean([camera_bags.pixels_of(i) for i in range(COUNT)], axis=(0, 1, 2))
    found = [points[channel].mean() for channel in 'rgb']
    np.testing.assert_allclose(found, wanted, atol=20)


@pytest.mark.slow
def test_a_recording_at_its_own_pace_loses_nothing(tmp_path: Path) -> None:
    bag = camera_bags.write_bag(tmp_path / 'recording', COUNT)
    poses, clouds, _ = through_the_node(bag, {'rate': 1.0})
    assert stamps(poses) == STAMPS
    assert stamps(clouds) == STAMPS[SMALL_FRAMES - 1 :]
