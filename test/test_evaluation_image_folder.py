# Copyright 2026 qvggt_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Image folders: 7-Scenes, TUM and plain layouts, and every fault by name."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from qvggt_ros.errors import DatasetError
from qvggt_ros.evaluation.image_folder import open_image_folder, read_depth_m, read_rgb

POSE = '0 0 1 {x}\n-1 0 0 2\n0 -1 0 3\n0 0 0 1\n'


def save_image(path: Path, value: int, size: tuple[int, int] = (8, 6)) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.full((size[1], size[0], 3), value, dtype=np.uint8)).save(path)


def save_depth(path: Path, steps: list[int]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.array([steps], dtype=np.uint16)).save(path)


@pytest.fixture
def seven_scenes(tmp_path: Path) -> Path:
    folder = tmp_path / 'scene'
    for number in (10, 0, 3):
        save_image(folder / f'frame-{number:06d}.color.png', number)
        (folder / f'frame-{number:06d}.pose.txt').write_text(POSE.format(x=number))
    save_depth(folder / 'frame-000003.depth.png', [0, 1500, 65535])
    (folder / 'camera-intrinsics.txt').write_text('5 0 4\n0 5 3\n0 0 1\n')
    return folder


@pytest.fixture
def tum(tmp_path: Path) -> Path:
    folder = tmp_path / 'tum'
    save_image(folder / 'rgb' / 'a.png', 1)
    save_image(folder / 'rgb' / 'b.png', 2)
    save_depth(folder / 'depth' / 'a.png', [5000, 0])
    (folder / 'rgb.txt').write_text('# files\n10.100000 rgb/a.png\n10.2000005 rgb/b.png\n')
    (folder / 'depth.txt').write_text('10.115 depth/a.png\n')
    (folder / 'groundtruth.txt').write_text(
        '10.095 1 0 0 0 0 0 1\n10.110 2 0 0 0 0 0 1\n10.230 3 0 0 0 0 0 1\n'
    )
    return folder


def test_seven_scenes(seven_scenes: Path) -> None:
    folder = open_image_folder(seven_scenes)
    assert (folder.layout, folder.width, folder.height) == ('7-scenes', 8, 6)
    assert not folder.world_is_z_up
    # Numbers count thirtieths of a second.
    assert [frame.stamp_ns for frame in folder.frames] == [0, 100_000_000, 333_333_333]
    assert [int(read_rgb(frame)[0, 0, 0]) for frame in folder.frames] == [0, 3, 10]
    poses = [frame.world_from_camera for frame in folder.frames]
    assert [None if pose is None else pose[0, 3] for pose in poses] == [0.0, 3.0, 10.0]
    assert folder.intrinsics is not None
    assert folder.intrinsics.tolist() == [[5.0, 0.0, 4.0], [0.0, 5.0, 3.0], [0.0, 0.0, 1.0]]
    assert [frame.depth_path is not None for frame in folder.frames] == [False, True, False]
    depth = read_depth_m(folder, folder.frames[1])
    assert depth.dtype == np.float32
    assert depth.tolist() == [[0.0, 1.5, 0.0]]


def test_tum_takes_the_nearest_pose_within_20_ms(tum: Path) -> None:
    folder = open_image_folder(tum)
    assert (folder.layout, folder.world_is_z_up, folder.intrinsics) == ('tum', True, None)
    first, second = folder.frames
    assert (first.stamp_ns, second.stamp_ns) == (10_100_000_000, 10_200_000_500)
    assert first.world_from_camera is not None
    assert first.world_from_camera[0, 3] == 1.0
    assert second.world_from_camera is None
    assert read_depth_m(folder, first).tolist() == [[1.0, 0.0]]
    with pytest.raises(DatasetError, match='has no depth'):
        read_depth_m(folder, second)


def test_plain_images_need_a_rate(tmp_path: Path) -> None:
    for index, name in enumerate(('b.png', 'a.png', 'c.bmp')):
        save_image(tmp_path / name, index)
    (tmp_path / 'notes.txt').write_text('not an image')
    with pytest.raises(DatasetError, match='no times'):
        open_image_folder(tmp_path)
    folder = open_image_folder(tmp_path, rate_hz=15.0)
    assert [frame.image_path.name for frame in folder.frames] == ['a.png', 'b.png', 'c.bmp']
    assert [frame.stamp_ns for frame in folder.frames] == [0, 66_666_667, 133_333_333]
    assert all(frame.world_from_camera is None for frame in folder.frames)


def test_a_rate_replaces_the_folders_times(seven_scenes: Path) -> None:
    folder = open_image_folder(seven_scenes, rate_hz=10.0)
    assert [frame.stamp_ns for frame in folder.frames] == [0, 100_000_000, 200_000_000]


def test_given_intrinsics_win(seven_scenes: Path) -> None:
    matrix = np.diag([9.0, 9.0, 1.0])
    assert open_image_folder(seven_scenes, intrinsics=matrix).intrinsics is matrix


def test_seven_scenes_without_any_pose_is_a_sequence(seven_scenes: Path) -> None:
    for path in seven_scenes.glob('*.pose.txt'):
        path.unlink()
    frames = open_image_folder(seven_scenes).frames
    assert [frame.world_from_camera for frame in frames] == [None] * 3


def test_one_missing_pose_is_a_fault(seven_scenes: Path) -> None:
    (seven_scenes / 'frame-000003.pose.txt').unlink()
    with pytest.raises(DatasetError, match=r'frame-000003\.pose\.txt: missing'):
        open_image_folder(seven_scenes)


def test_a_bad_pose_is_named(seven_scenes: Path) -> None:
    (seven_scenes / 'frame-000010.pose.txt').write_text('1 2 3')
    with pytest.raises(DatasetError, match=r'frame-000010\.pose\.txt: 3 numbers'):
        open_image_folder(seven_scenes)


def test_two_images_of_one_frame_are_a_fault(seven_scenes: Path) -> None:
    save_image(seven_scenes / 'frame-000003.color.jpg', 5)
    with pytest.raises(DatasetError, match='a second image'):
        open_image_folder(seven_scenes)


def test_unequal_sizes_are_a_fault(seven_scenes: Path) -> None:
    save_image(seven_scenes / 'frame-000003.color.png', 3, (6, 8))
    with pytest.raises(DatasetError, match=r'frame-000003\.color\.png: 6x8 .* 8x6'):
        open_image_folder(seven_scenes)


def test_what_is_no_image_is_named(seven_scenes: Path) -> None:
    (seven_scenes / 'frame-000003.color.png').write_bytes(b'not an image')
    with pytest.raises(DatasetError, match=r'frame-000003\.color\.png: not a readable image'):
        open_image_folder(seven_scenes)


def test_a_truncated_image_is_named_when_it_is_read(seven_scenes: Path) -> None:
    rng = np.random.default_rng(0)
    path = seven_scenes / 'frame-000003.color.png'
    Image.fromarray(rng.integers(0, 256, (6, 8, 3), dtype=np.uint8)).save(path)
    content = path.read_bytes()
    path.write_bytes(content[: len(content) - 60])
    folder = open_image_folder(seven_scenes)
    with pytest.raises(DatasetError, match=r'frame-000003\.color\.png: not a readable image'):
        read_rgb(folder.frames[1])


def test_depth_of_another_kind_is_named(seven_scenes: Path) -> None:
    folder = open_image_folder(seven_scenes)
    save_image(seven_scenes / 'frame-000003.depth.png', 1)
    with pytest.raises(DatasetError, match='one channel of 16 bits'):
        read_depth_m(folder, folder.frames[1])


def test_tum_faults(tum: Path) -> None:
    (tum / 'groundtruth.txt').write_text('99.0 1 0 0 0 0 0 1\n')
    with pytest.raises(DatasetError, match='no pose within 20 ms'):
        open_image_folder(tum)
    (tum / 'rgb.txt').write_text('10.1 rgb/missing.png\n')
    (tum / 'groundtruth.txt').unlink()
    with pytest.raises(DatasetError, match=r'missing\.png'):
        open_image_folder(tum)
    (tum / 'rgb.txt').write_text('# nothing\n')
    with pytest.raises(DatasetError, match='lists no images'):
        open_image_folder(tum)


@pytest.mark.parametrize('rate_hz', [0.0, -1.0, float('nan')])
def test_a_rate_must_be_positive(seven_scenes: Path, rate_hz: float) -> None:
    with pytest.raises(DatasetError, match='must be positive'):
        open_image_folder(seven_scenes, rate_hz=rate_hz)


def test_no_folder_and_no_images(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match='no such folder'):
        open_image_folder(tmp_path / 'none')
    with pytest.raises(DatasetError, match='no images'):
        open_image_folder(tmp_path)


def test_grey_images_become_rgb(tmp_path: Path) -> None:
    Image.fromarray(np.full((4, 5), 77, dtype=np.uint8)).save(tmp_path / 'grey.png')
    folder = open_image_folder(tmp_path, rate_hz=1.0)
    pixels = read_rgb(folder.frames[0])
    assert pixels.shape == (4, 5, 3)
    assert pixels.dtype == np.uint8
    assert (pixels == 77).all()


def test_a_real_recording(shared_dir: Path) -> None:
    folder = open_image_folder(shared_dir / 'data' / 'redkitchen')
    assert (folder.layout, folder.width, folder.height) == ('7-scenes', 640, 480)
    assert len(folder.frames) == 200
    assert folder.frames[1].stamp_ns == 100_000_000
    assert folder.frames[-1].stamp_ns == 19_900_000_000
    assert folder.intrinsics is not None
    assert folder.intrinsics[0].tolist() == [585.0, 0.0, 320.0]
    depth = read_depth_m(folder, folder.frames[0])
    assert 0.5 < np.median(depth[depth > 0.0]) < 4.0
    assert depth.max() < 20.0
