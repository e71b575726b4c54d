# Copyright 2026 qvggt_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""`qvggt synth bag`: a recording whose truth is true."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from rosbags.highlevel import AnyReader

from qvggt_ros.cli import main
from qvggt_ros.synthetic.drive import render_trajectory
from qvggt_ros.synthetic.synth_command import DEMO_SEED, FIRST_STAMP_NS

WORDS = ['synth', 'bag', '--seed', '12', '--frames', '3', '--size', '64x48', '--depth']


@pytest.fixture(scope='module')
def messages(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list]:
    out = tmp_path_factory.mktemp('bags') / 'room'
    assert main([*WORDS, '--out', str(out)]) == 0
    found: dict[str, list] = {}
    with AnyReader([out]) as reader:
        for connection, time_ns, raw in reader.messages():
            message = reader.deserialize(raw, connection.msgtype)
            found.setdefault(connection.topic, []).append((time_ns, message))
    return found


def test_the_demo_room_is_never_trained_on() -> None:
    assert DEMO_SEED >= 10_000


def test_topics_and_stamps(messages: dict[str, list]) -> None:
    assert set(messages) == {
        '/camera/image_raw',
        '/camera/camera_info',
        '/ground_truth/pose',
        '/ground_truth/depth',
    }
    for found in messages.values():
        for index, (time_ns, message) in enumerate(found):
            stamp = message.header.stamp
            assert stamp.sec * 10**9 + stamp.nanosec == time_ns
            assert time_ns == FIRST_STAMP_NS + index * 100_000_000
    assert messages['/camera/image_raw'][0][1].header.frame_id == 'camera_optical_frame'
    assert messages['/ground_truth/pose'][0][1].header.frame_id == 'map'


def test_pixels_depth_and_calibration_are_the_renderers(messages: dict[str, list]) -> None:
    truth = render_trajectory(12, 3, 64, 48, device='numpy')
    for index in range(3):
        image = messages['/camera/image_raw'][index][1]
        assert image.encoding == 'rgb8'
        assert image.step == 64 * 3
        pixels = image.data.reshape(48, 64, 3)
        rgb = np.asarray(truth.images[0, index]).transpose(1, 2, 0)
        assert np.array_equal(pixels, rgb)
        depth = messages['/ground_truth/depth'][index][1]
        assert depth.encoding == '32FC1'
        metres = depth.data.view(np.float32).reshape(48, 64)
        assert np.array_equal(metres, truth.depth_m[0, index])
        info = messages['/camera/camera_info'][index][1]
        assert (info.width, info.height) == (64, 48)
        assert np.array_equal(info.k.reshape(3, 3), truth.intrinsics[0, index])


def test_poses_are_of_the_optical_frame_in_a_map_with_z_up(messages: dict[str, list]) -> None:
    truth = render_trajectory(12, 3, 64, 48, device='numpy')
    for index, (_, message) in enumerate(messages['/ground_truth/pose']):
        p, q = message.pose.position, message.pose.orientation
        matrix = np.asarray(truth.camera_from_world[0, index], dtype=np.float64)
        # A camera at the map's position p has p at its own origin.
        assert matrix @ (p.x, p.y, p.z, 1.0) == pytest.approx([0, 0, 0, 1], abs=1e-5)
        # The optical axis in the map, from the quaternion's third column.
        axis = [2 * (q.x * q.z + q.w * q.y), 2 * (q.y * q.z - q.w * q.x)]
        assert axis == pytest.approx(matrix[2, :2], abs=1e-5)
        # The camera's down is the map's down, roughly.
        down_z = 2 * (q.y * q.z + q.w * q.x)
        assert down_z == pytest.approx(matrix[1, 2], abs=1e-5)
        assert down_z < -0.8


@pytest.mark.parametrize(
    'text', ['', '320', '320x', 'x240', '320x240x3', '0x240', '-3x5', '1e3x9']
)
def test_wrong_sizes_end_with_one_line_and_status_2(
    text: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / 'bag'
    assert main(['synth', 'bag', f'--size={text}', '--out', str(out)]) == 2
    assert '--size' in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize('words', [['--frames', '0'], ['--rate', '0'], ['--samples', '0']])
def test_other_wrong_numbers_leave_nothing(
    words: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(['synth', 'bag', '--out', str(tmp_path / 'bag'), *words]) == 2
    assert 'positive' in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_an_existing_bag_is_left_alone(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / 'mine.txt').write_text('mine')
    assert main([*WORDS, '--out', str(tmp_path)]) == 2
    assert 'exists already' in capsys.readouterr().err
    assert (tmp_path / 'mine.txt').read_text() == 'mine'
