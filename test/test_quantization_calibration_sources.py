# Copyright 2026 qvggt_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Windows to calibrate on are the node's windows, in order, and none of the test rooms'."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import camera_bags
import numpy as np
import pytest
from PIL import Image
from rosbags.rosbag2 import StoragePlugin

from qvggt_ros.errors import BagError, CalibrationError, DatasetError, UsageError
from qvggt_ros.quantization import calibration_sources
from qvggt_ros.quantization.calibration_sources import (
    FIRST_SCENE,
    SCENES_PER_SEED,
    open_pool,
    window_starts,
)
from qvggt_ros.quantization.window_faults import picture_fault
from qvggt_ros.reconstruction.preprocess import plan_preprocess, resize_for_engine
from qvggt_ros.synthetic.sequences import SequenceBatch, render_batch

SIZE = (28, 42)
FRAMES = 3
S = 10**9
LIMIT = 0.25


def prepared(index: int) -> np.ndarray:
    """Return a frame of `camera_bags` as the node hands it to the network."""
    plan = plan_preprocess(camera_bags.WIDTH, camera_bags.HEIGHT, SIZE[1], SIZE[0])
    return resize_for_engine(camera_bags.pixels_of(index), plan)


def write_images(folder: Path, count: int) -> Path:
    folder.mkdir()
    for index in range(count):
        Image.fromarray(camera_bags.pixels_of(index)).save(folder / f'{index:03}.png')
    return folder


@pytest.mark.parametrize('kind', ['mcap', 'sqlite3', 'ros1', 'compressed', 'folder'])
def test_every_kind_of_recording_gives_the_nodes_windows(tmp_path: Path, kind: str) -> None:
    path = tmp_path / 'recording'
    if kind == 'folder':
        write_images(path, 12)
    elif kind == 'ros1':
        path = camera_bags.write_ros1_bag(tmp_path / 'recording.bag', 12)
    else:
        storage = StoragePlugin.SQLITE3 if kind == 'sqlite3' else StoragePlugin.MCAP
        encoding = 'png' if kind == 'compressed' else 'bgr8'
        camera_bags.write_bag(path, 12, storage, encoding)
    pool = open_pool(str(path), FRAMES, SIZE, count=100, seed=0)
    assert len(pool) == 10
    for index in (0, 1, 9, 4, 3):  # forwards and back
        expected = np.stack([prepared(index + t) for t in range(FRAMES)])
        assert np.array_equal(pool.window(index), expected)
        assert pool.window(index).dtype == np.uint8
    assert str(path) in pool.name


def test_a_topic_can_be_named(tmp_path: Path) -> None:
    path = camera_bags.write_bag(tmp_path / 'bag', 5)
    pool = open_pool(f'{path}#{camera_bags.IMAGE_TOPIC}', FRAMES, SIZE, 2, 0)
    assert len(pool) == 2
    with pytest.raises(BagError, match='no images on /other'):
        open_pool(f'{path}#/other', FRAMES, SIZE, 2, 0)


def test_windows_lie_evenly_over_a_recording(tmp_path: Path) -> None:
    folder = write_images(tmp_path / 'images', 42)
    pools = [open_pool(str(folder), FRAMES, SIZE, 4, seed) for seed in (0, 0, 1)]
    first = [
        [
            next(i for i in range(42) if np.array_equal(prepared(i), pool.window(w)[0]))
            for w in range(4)
        ]
        for pool in pools
    ]
    assert first[0] == first[1] != first[2]
    assert all(10 * w <= start < 10 * (w + 1) for row in first for w, start in enumerate(row))
    assert len({pool.name for pool in pools}) == 2


def test_no_window_comes_twice() -> None:
    for available, count in ((7, 5), (10, 10), (3, 100), (400, 399)):
        chosen = calibration_sources._evenly(available, count, seed=3)
        assert len(set(chosen.tolist())) == min(count, available)
        assert (np.diff(chosen) > 0).all()
        assert 0 <= chosen[0] <= chosen[-1] < available


def test_frames_are_a_tenth_of_a_second_apart() -> None:
    assert window_starts([i * S // 30 for i in range(20)], 3)[1] == 3
    assert window_starts([i * S // 10 for i in range(20)], 3)[1] == 1
    starts, step = window_starts([i * S for i in range(5)], 3)  # slower: every image
    assert (starts.tolist(), step) == ([0, 1, 2], 1)
    assert window_starts([0] * 5, 3)[0].tolist() == [0, 1, 2]  # no times at all


def test_no_window_spans_a_pause_or_a_jump_back() -> None:
    stamps = [i * S // 10 for i in (0, 1, 2, 3, 90, 91, 92, 5, 6, 7)]
    assert window_starts(stamps, 3)[0].tolist() == [0, 1, 4, 7]


def test_synthetic_rooms_are_training_rooms_that_no_training_reaches(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    rendered: list[int] = []

    def spy(seeds: np.ndarray, *args: int, **kwargs: object) -> SequenceBatch:
        rendered.extend(seeds.tolist())
        return render_batch(seeds, *args, **kwargs)  # type: ignore[arg-type]

    monkeypatch.setattr(calibration_sources, 'render_batch', spy)
    pool = open_pool('synthetic:7', FRAMES, SIZE, 50, seed=0)
    assert len(pool) == 50
    assert rendered == []
    window = pool.window(49)
    assert (window.shape, window.dtype) == ((FRAMES, *SIZE, 3), np.uint8)
    assert rendered == [-1 - (FIRST_SCENE + 7 * SCENES_PER_SEED + 49)]
    assert np.array_equal(window, pool.window(49))


def test_synthetic_takes_its_rooms_from_the_seed() -> None:
    windows = [
        open_pool(source, FRAMES, SIZE, 2, seed).window(0)
        for source, seed in (('synthetic', 3), ('synthetic:3', 0), ('synthetic', 4))
    ]
    assert np.array_equal(windows[0], windows[1])
    assert not np.array_equal(windows[0], windows[2])


def test_synthetic_windows_are_drives() -> None:
    motion = calibration_sources.VIDEO_MOTION
    assert motion.weights[calibration_sources.KINDS.index('random')] == 0.0
    assert motion.shuffled == 0.0
    pool = open_pool('synthetic:0', 4, (84, 112), 12, 0)
    faults = [picture_fault(pool.window(i), LIMIT) for i in range(12)]
    assert sum(bool(fault) for fault in faults) <= 1


@pytest.mark.parametrize(
    ('source', 'message'),
    [
        ('synthetic:', 'synthetic:SEED'),
        ('synthetic:-1', 'synthetic:SEED'),
        ('synthetic:10x', 'synthetic:SEED'),
        ('synthetic:999999999999999999', 'must lie in'),
        ('nowhere', 'no such folder or bag'),
        ('nowhere#/topic', 'no such folder or bag'),
    ],
)
def test_other_sources_get_one_line(source: str, message: str) -> None:
    with pytest.raises((UsageError, CalibrationError), match=message) as caught:
        open_pool(source, FRAMES, SIZE, 10, 0)
    assert str(caught.value).startswith(source)
    assert '\n' not in str(caught.value)


@pytest.mark.parametrize(
    ('frames', 'size', 'count', 'seed'),
    [(0, SIZE, 1, 0), (3, SIZE, 0, 0), (3, SIZE, 1, -1), (3, (30, 42), 1, 0), (3, (0, 14), 1, 0)],
)
def test_numbers_are_checked(frames: int, size: tuple[int, int], count: int, seed: int) -> None:
    with pytest.raises(UsageError, match=r'synthetic: .*must'):
        open_pool('synthetic', frames, size, count, seed)


def test_unusable_recordings_are_named(tmp_path: Path) -> None:
    short = write_images(tmp_path / 'short', 2)
    with pytest.raises(CalibrationError, match=r'short: 2 images are too few for a window of 3'):
        open_pool(str(short), FRAMES, SIZE, 1, 0)
    (tmp_path / 'empty').mkdir()
    with pytest.raises(DatasetError, match='no images'):
        open_pool(str(tmp_path / 'empty'), FRAMES, SIZE, 1, 0)
    with pytest.raises(UsageError, match='no topics'):
        open_pool(f'{short}#/image', FRAMES, SIZE, 1, 0)
    (tmp_path / 'text.mcap').write_text('not a bag')
    with pytest.raises(BagError, match=r'text\.mcap'):
        open_pool(str(tmp_path / 'text.mcap'), FRAMES, SIZE, 1, 0)


def test_an_unknown_encoding_names_recording_and_images(tmp_path: Path) -> None:
    path = camera_bags.write_bag(tmp_path / 'bag', 4, encoding='nv99')
    pool = open_pool(str(path), FRAMES, SIZE, 1, 0)
    with pytest.raises(CalibrationError, match=r'bag#/camera/image_raw: images \d to \d: .*nv99'):
        pool.window(0)


def test_no_ros_is_needed(tmp_path: Path) -> None:
    path = camera_bags.write_bag(tmp_path / 'bag', 4)
    program = (
        'import sys; from qvggt_ros.quantization.calibration_sources import open_pool; '
        f'open_pool({str(path)!r}, 3, (28, 42), 1, 0).window(0); print("rclpy" in sys.modules)'
    )
    command = [sys.executable, '-c', program]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == 'False'


def test_a_real_recording_is_usable(shared_dir: Path) -> None:
    pool = open_pool(str(shared_dir / 'data' / 'redkitchen'), 4, (84, 112), 25, 0)
    assert [picture_fault(pool.window(i), LIMIT) for i in range(25)] == [''] * 25
