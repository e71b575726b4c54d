# Copyright 2026 qvggt_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""`qvggt convert`: image folders become bags, and faults one line and status 2."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from rosbags.highlevel import AnyReader
from scipy.spatial.transform import Rotation

from qvggt_ros.cli import main

# Down is optical y: a camera that looks level along the scene's z axis.
POSE = '1 0 0 {x}\n0 1 0 2\n0 0 1 3\n0 0 0 1\n'


@pytest.fixture
def scene(tmp_path: Path) -> Path:
    folder = tmp_path / 'scene'
    folder.mkdir()
    rng = np.random.default_rng(3)
    for number in range(0, 9, 3):
        stem = folder / f'frame-{number:06d}'
        pixels = rng.integers(0, 256, (6, 8, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(f'{stem}.color.png')
        Path(f'{stem}.pose.txt').write_text(POSE.format(x=number))
    Image.fromarray(np.full((6, 8), 1250, dtype=np.uint16)).save(folder / 'frame-000000.depth.png')
    return folder


def convert(images: Path, out: Path, *words: str) -> int:
    return main(['convert', '--images', str(images), '--out', str(out), *words])


def read(path: Path) -> dict[str, list[tuple[int, Any]]]:
    found: dict[str, list[tuple[int, Any]]] = {}
    with AnyReader([path]) as reader:
        for connection, time_ns, raw in reader.messages():
            message = reader.deserialize(raw, connection.msgtype)
            found.setdefault(connection.topic, []).append((time_ns, message))
    return found


def pose_of(message: Any) -> np.ndarray:
    p, q = message.pose.position, message.pose.orientation
    matrix = np.eye(4)
    matrix[:3, :3] = Rotation.from_quat([q.x, q.y, q.z, q.w]).as_matrix()
    matrix[:3, 3] = p.x, p.y, p.z
    return matrix


@pytest.mark.parametrize('storage', ['mcap', 'sqlite3'])
@pytest.mark.parametrize('encoding', ['rgb8', 'bgr8'])
def test_pixels_and_stamps(scene: Path, tmp_path: Path, storage: str, encoding: str) -> None:
    out = tmp_path / 'bag'
    assert convert(scene, out, '--storage', storage, '--encoding', encoding) == 0
    found = read(out)
    assert set(found) == {'/camera/image_raw', '/ground_truth/pose'}
    assert [time for time, _ in found['/camera/image_raw']] == [0, 100_000_000, 200_000_000]
    for (_, message), path in zip(
        found['/camera/image_raw'], sorted(scene.glob('*.color.png')), strict=True
    ):
        pixels = message.data.reshape(6, 8, 3)
        if encoding == 'bgr8':
            pixels = pixels[..., ::-1]
        assert np.array_equal(pixels, np.array(Image.open(path)))


def test_poses_stand_upright_in_the_map(scene: Path, tmp_path: Path) -> None:
    assert convert(scene, tmp_path / 'bag') == 0
    for number, (_, message) in zip(
        (0, 3, 6), read(tmp_path / 'bag')['/ground_truth/pose'], strict=True
    ):
        pose = pose_of(message)
        # The scene's x, y, z (right, down, forward) are the map's -y, -z, x.
        assert pose[:3, 3] == pytest.approx([3.0, -number, -2.0])
        assert pose[:3, 2] == pytest.approx([1.0, 0.0, 0.0])
        assert pose[:3, 1] == pytest.approx([0.0, 0.0, -1.0])


def test_options(scene: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ('--intrinsics', '50,51,4,3', '--rate', '5', '--start', '1.5', '--depth', '--json')
    assert convert(scene, tmp_path / 'bag', *words, '--image-topic', '/front/image_raw') == 0
    summary = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert (summary['frames'], summary['poses'], summary['camera_info']) == (3, 3, True)
    assert summary['duration_s'] == pytest.approx(0.4)
    found = read(tmp_path / 'bag')
    stamps = [1_500_000_000, 1_700_000_000, 1_900_000_000]
    assert [time for time, _ in found['/front/image_raw']] == stamps
    assert [time for time, _ in found['/front/camera_info']] == stamps
    k = found['/front/camera_info'][0][1].k
    assert k.tolist() == [50.0, 0.0, 4.0, 0.0, 51.0, 3.0, 0.0, 0.0, 1.0]
    (depth,) = found['/ground_truth/depth']
    assert (depth[1].data.view(np.float32) == np.float32(1.25)).all()


def test_intrinsics_from_a_file(scene: Path, tmp_path: Path) -> None:
    (tmp_path / 'k.txt').write_text('7 0 4\n0 7 3\n0 0 1')
    assert convert(scene, tmp_path / 'bag', '--intrinsics', str(tmp_path / 'k.txt')) == 0
    assert read(tmp_path / 'bag')['/camera/camera_info'][0][1].k[0] == 7.0


def test_a_cameras_own_jpeg_bytes_are_kept(tmp_path: Path) -> None:
    images = tmp_path / 'images'
    images.mkdir()
    Image.fromarray(np.full((6, 8, 3), 120, dtype=np.uint8)).save(images / 'a.jpg')
    assert convert(images, tmp_path / 'bag', '--rate', '10', '--encoding', 'jpeg') == 0
    message = read(tmp_path / 'bag')['/camera/image_raw/compressed'][0][1]
    assert message.format == 'jpeg'
    assert message.data.tobytes() == (images / 'a.jpg').read_bytes()


def test_png_becomes_jpeg_on_request(scene: Path, tmp_path: Path) -> None:
    assert convert(scene, tmp_path / 'bag', '--encoding', 'jpeg') == 0
    message = read(tmp_path / 'bag')['/camera/image_raw/compressed'][0][1]
    assert message.data.tobytes()[:2] == b'\xff\xd8'


def spoil_image(scene: Path) -> None:
    path = scene / 'frame-000006.color.png'
    path.write_bytes(path.read_bytes()[:-100])


def spoil_pose(scene: Path) -> None:
    (scene / 'frame-000006.pose.txt').write_text(POSE.format(x='nan'))


def remove_pose(scene: Path) -> None:
    (scene / 'frame-000006.pose.txt').unlink()


def shrink_image(scene: Path) -> None:
    Image.new('RGB', (4, 4)).save(scene / 'frame-000006.color.png')


def remove_images(scene: Path) -> None:
    shutil.rmtree(scene)
    scene.mkdir()


@pytest.mark.parametrize(
    ('spoil', 'named'),
    [
        (spoil_image, 'frame-000006.color.png'),
        (spoil_pose, 'frame-000006.pose.txt'),
        (remove_pose, 'frame-000006.pose.txt'),
        (shrink_image, 'frame-000006.color.png'),
        (remove_images, 'no images'),
    ],
)
def test_a_bad_folder_is_one_line_status_2_and_no_bag(
    scene: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], spoil: Any, named: str
) -> None:
    spoil(scene)
    assert convert(scene, tmp_path / 'bag') == 2
    error = capsys.readouterr().err.splitlines()[-1]
    assert error.startswith('qvggt convert: ')
    assert named in error
    assert [path.name for path in tmp_path.iterdir()] == ['scene']


@pytest.mark.parametrize(
    'words',
    [
        ('--intrinsics', '1,2,3'),
        ('--intrinsics', '1,2,3,x'),
        ('--intrinsics', 'no-such-file'),
        ('--rate', '0'),
        ('--start', '-1'),
    ],
)
def test_wrong_options_are_one_line_and_status_2(
    scene: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], words: tuple[str, ...]
) -> None:
    assert convert(scene, tmp_path / 'bag', *words) == 2
    assert capsys.readouterr().err.startswith('qvggt convert: ')
    assert not (tmp_path / 'bag').exists()


def test_an_existing_bag_is_left_alone(
    scene: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert convert(scene, tmp_path / 'bag') == 0
    before = (tmp_path / 'bag' / 'bag.mcap').read_bytes()
    assert convert(scene, tmp_path / 'bag') == 2
    assert 'exists already' in capsys.readouterr().err
    assert (tmp_path / 'bag' / 'bag.mcap').read_bytes() == before


def test_a_real_recording(shared_dir: Path, tmp_path: Path) -> None:
    source, some = shared_dir / 'data' / 'redkitchen', tmp_path / 'some'
    some.mkdir()
    shutil.copy(source / 'camera-intrinsics.txt', some)
    for number in (0, 3, 300, 597):
        for path in source.glob(f'frame-{number:06d}.*'):
            shutil.copy(path, some)
    assert convert(some, tmp_path / 'bag', '--depth') == 0
    found = read(tmp_path / 'bag')
    stamps = [0, 100_000_000, 10_000_000_000, 19_900_000_000]
    assert {name: [time for time, _ in found[name]] for name in found} == dict.fromkeys(
        (
            '/camera/image_raw',
            '/camera/camera_info',
            '/ground_truth/pose',
            '/ground_truth/depth',
        ),
        stamps,
    )
    for index, number in enumerate((0, 3, 300, 597)):
        pixels = np.array(Image.open(source / f'frame-{number:06d}.color.jpg'))
        message = found['/camera/image_raw'][index][1]
        assert np.array_equal(message.data.reshape(480, 640, 3), pixels)
    # The camera is held level: its down is the map's down, not the optical world's.
    poses = [pose_of(message) for _, message in found['/ground_truth/pose']]
    assert min(-pose[2, 1] for pose in poses) > 0.7
    first, last = (np.loadtxt(source / f'frame-{number:06d}.pose.txt') for number in (0, 597))
    distance = np.linalg.norm(last[:3, 3] - first[:3, 3])
    assert np.linalg.norm(poses[-1][:3, 3] - poses[0][:3, 3]) == pytest.approx(distance)
