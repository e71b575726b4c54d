# Copyright 2026 qvggt_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Pose files, TUM lists and intrinsics: what is read, and one line for whatever is wrong."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.spatial.transform import Rotation

from qvggt_ros.errors import DatasetError
from qvggt_ros.evaluation.pose_files import (
    intrinsics_from,
    parse_numbers,
    read_intrinsics,
    read_pose_matrix,
    read_tum_list,
    read_tum_poses,
)

IDENTITY = '1 0 0 0\n0 1 0 0\n0 0 1 0\n0 0 0 1\n'
unit_floats = st.floats(-1.0, 1.0)


def written(folder: Path, text: str | bytes) -> Path:
    path = folder / 'file.txt'
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


@given(st.tuples(*[st.floats(-3.0, 3.0)] * 3), st.tuples(*[st.floats(-1e3, 1e3)] * 3))
def test_written_poses_are_read(
    tmp_path_factory: pytest.TempPathFactory, turn: tuple[float, ...], place: tuple[float, ...]
) -> None:
    pose = np.eye(4)
    pose[:3, :3], pose[:3, 3] = Rotation.from_rotvec(turn).as_matrix(), place
    path = tmp_path_factory.mktemp('poses') / 'pose.txt'
    np.savetxt(path, pose)
    assert read_pose_matrix(path) == pytest.approx(pose, abs=1e-12)


@pytest.mark.parametrize(
    ('text', 'rule'),
    [
        ('', '0 numbers'),
        (IDENTITY + '1', '17 numbers'),
        (IDENTITY[:-8], '12 numbers'),
        (IDENTITY.replace('1', 'x', 1), "'x' is not a number"),
        (IDENTITY.replace('1', 'nan', 1), 'not finite'),
        (IDENTITY.replace('1', '-inf', 1), 'not finite'),
        (IDENTITY.replace('1', '2', 1), 'not a rotation'),
        (IDENTITY.replace('1', '-1', 1), 'not a rotation'),
        (IDENTITY[:-2] + '2', '0 0 0 1'),
        (b'\xff\xfe\x00', 'not a readable text file'),
    ],
)
def test_bad_poses(tmp_path: Path, text: str | bytes, rule: str) -> None:
    path = written(tmp_path, text)
    with pytest.raises(DatasetError, match=r'file\.txt') as caught:
        read_pose_matrix(path)
    assert rule in str(caught.value)
    assert '\n' not in str(caught.value)


def test_a_missing_pose_file(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match='not a readable text file'):
        read_pose_matrix(tmp_path / 'none.txt')


@given(st.text(max_size=60))
def test_any_text_is_numbers_or_one_error(text: str) -> None:
    try:
        numbers = parse_numbers(text, 'somewhere')
    except DatasetError as error:
        assert 'somewhere' in str(error)
    else:
        assert len(numbers) == len(text.replace(',', ' ').split())


def test_intrinsics_as_matrix_and_as_four_numbers(tmp_path: Path) -> None:
    expected = [[585.0, 0.0, 320.0], [0.0, 586.0, 240.0], [0.0, 0.0, 1.0]]
    matrix = written(tmp_path, '585 0 320\n0 586 240\n0 0 1\n')
    assert read_intrinsics(matrix).tolist() == expected
    assert read_intrinsics(written(tmp_path, '585, 586, 320, 240')).tolist() == expected


@pytest.mark.parametrize(
    'numbers',
    [
        [],
        [1.0, 2.0, 3.0],
        [0.0, 1.0, 1.0, 1.0],
        [1.0, -1.0, 1.0, 1.0],
        [float('nan'), 1.0, 1.0, 1.0],
        [1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 2.0],
        [1.0, 0.0, 0.0, 3.0, 1.0, 0.0, 0.0, 0.0, 1.0],
    ],
)
def test_bad_intrinsics(numbers: list[float]) -> None:
    with pytest.raises(DatasetError, match='--intrinsics'):
        intrinsics_from(numbers, '--intrinsics')


def test_tum_lists_keep_every_digit_of_the_time(tmp_path: Path) -> None:
    path = written(
        tmp_path, '# color images\n1305031102.175304 rgb/a.png\n\n1305031102.211214567 rgb/b.png\n'
    )
    assert read_tum_list(path) == {
        1_305_031_102_175_304_000: 'rgb/a.png',
        1_305_031_102_211_214_567: 'rgb/b.png',
    }


@pytest.mark.parametrize(
    ('line', 'rule'),
    [
        ('1.0', 'a time and a file name'),
        ('1.0 a b', 'a time and a file name'),
        ('now a.png', 'not a time'),
        ('-1 a.png', 'must lie in'),
        ('nan a.png', 'must lie in'),
        ('1e99 a.png', 'must lie in'),
        ('1.0 /etc/passwd', 'leads out'),
        ('1.0 ../a.png', 'leads out'),
        ('0.5 a.png', 'a second time'),
    ],
)
def test_bad_tum_lists_name_the_line(tmp_path: Path, line: str, rule: str) -> None:
    with pytest.raises(DatasetError, match=r'file\.txt, line 2') as caught:
        read_tum_list(written(tmp_path, f'0.5 first.png\n{line}\n'))
    assert rule in str(caught.value)


@given(st.tuples(*[unit_floats] * 4).filter(lambda q: np.linalg.norm(q) > 0.1))
def test_tum_poses_are_world_from_camera(
    tmp_path_factory: pytest.TempPathFactory, quaternion: tuple[float, ...]
) -> None:
    unit = np.array(quaternion) / np.linalg.norm(quaternion)
    path = tmp_path_factory.mktemp('tum') / 'groundtruth.txt'
    path.write_text('0.25 1 -2 3 ' + ' '.join(f'{part:.12f}' for part in unit) + '\n')
    pose = read_tum_poses(path)[250_000_000]
    assert pose[:3, :3] == pytest.approx(Rotation.from_quat(unit).as_matrix(), abs=1e-9)
    assert pose[:, 3].tolist() == [1.0, -2.0, 3.0, 1.0]


@pytest.mark.parametrize(
    ('line', 'rule'),
    [
        ('1 0 0 0 0 0 0', 'expected time'),
        ('1 0 0 0 0 0 0 0', 'unit quaternion'),
        ('1 0 0 0 0 0 0 2', 'unit quaternion'),
        ('1 nan 0 0 0 0 0 1', 'must be finite'),
        ('1 0 0 0 0 0 0 w', 'not a number'),
    ],
)
def test_bad_tum_poses_name_the_line(tmp_path: Path, line: str, rule: str) -> None:
    with pytest.raises(DatasetError, match=r'file\.txt, line 1') as caught:
        read_tum_poses(written(tmp_path, line))
    assert rule in str(caught.value)
