# Copyright 2026 qvggt_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Read the small text files of image folders: pose matrices, TUM lists, intrinsics.

Every fault becomes one DatasetError that names the file, the line and the rule.
"""

from __future__ import annotations

from decimal import Decimal, InvalidOperation
from pathlib import Path
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from qvggt_ros.errors import DatasetError
from qvggt_ros.reconstruction.geometry import pose_matrix, rotation_from_quaternion

Value = TypeVar('Value')

_NS_PER_S = 1_000_000_000
# Poses are written with six or seven digits; more than this is another kind of matrix.
_RIGID_TOLERANCE = 1e-2
_LATEST_S = 2**31


def read_pose_matrix(path: Path) -> NDArray[np.float64]:
    """Return a rigid transform [4, 4] from a file of four lines of four numbers.

    Raises:
        DatasetError: missing, not 4x4, not finite, or not rigid.

    """
    numbers = parse_numbers(_text(path), path)
    if len(numbers) != 16:
        raise DatasetError(f'{path}: {len(numbers)} numbers; a pose has four lines of four')
    matrix = np.array(numbers).reshape(4, 4)
    if not np.isfinite(matrix).all():
        raise DatasetError(f'{path}: the pose is not finite; leave out frames without a pose')
    rotation = matrix[:3, :3]
    skew = np.abs(rotation @ rotation.T - np.eye(3)).max()
    if skew > _RIGID_TOLERANCE or np.linalg.det(rotation) < 0.0:
        raise DatasetError(f'{path}: the upper left 3x3 block is not a rotation')
    if np.abs(matrix[3] - (0.0, 0.0, 0.0, 1.0)).max() > 1e-6:
        raise DatasetError(f'{path}: the last line of a pose must be 0 0 0 1')
    return matrix


def read_intrinsics(path: Path) -> NDArray[np.float64]:
    """Return a camera matrix [3, 3] from a file with nine numbers, or with fx fy cx cy.

    Raises:
        DatasetError: missing, another count of numbers, or not a camera matrix.

    """
    return intrinsics_from(parse_numbers(_text(path), path), str(path))


def intrinsics_from(numbers: list[float], source: str) -> NDArray[np.float64]:
    """Return a camera matrix [3, 3] from nine numbers or from fx, fy, cx, cy.

    Raises:
        DatasetError: another count of numbers, or not a camera matrix.

    """
    if len(numbers) == 9:
        matrix = np.array(numbers).reshape(3, 3)
    elif len(numbers) == 4:
        fx, fy, cx, cy = numbers
        matrix = np.array([[fx, 0.0, cx], [0.0, fy, cy], [0.0, 0.0, 1.0]])
    else:
        raise DatasetError(
            f'{source}: {len(numbers)} numbers; expected fx fy cx cy or a 3x3 matrix'
        )
    is_camera = (matrix[2] == (0.0, 0.0, 1.0)).all() and matrix[1, 0] == 0.0
    if not (np.isfinite(matrix).all() and is_camera and min(matrix[0, 0], matrix[1, 1]) > 0.0):
        raise DatasetError(f'{source}: not a camera matrix with positive focal lengths')
    return matrix


def read_tum_list(path: Path) -> dict[int, str]:
    """Return file names by stamp (ns) from lines `seconds name`; `#` begins a comment.

    Raises:
        DatasetError: missing, a bad line, or a stamp that occurs twice.

    """
    names: dict[int, str] = {}
    for where, words in _lines(path):
        if len(words) != 2:
            raise DatasetError(f'{where}: expected a time and a file name')
        if Path(words[1]).is_absolute() or '..' in Path(words[1]).parts:
            raise DatasetError(f'{where}: {words[1]} leads out of the folder')
        _add(names, _stamp_ns(words[0], where), words[1], where)
    return names


def read_tum_poses(path: Path) -> dict[int, NDArray[np.float64]]:
    """Return world-from-camera [4, 4] by stamp (ns) from lines `seconds tx ty tz qx qy qz qw`.

    Raises:
        DatasetError: missing, a bad line, a quaternion of length 0, or a stamp twice.

    """
    poses: dict[int, NDArray[np.float64]] = {}
    for where, words in _lines(path):
        if len(words) != 8:
            raise DatasetError(f'{where}: expected time tx ty tz qx qy qz qw')
        numbers = np.array(parse_numbers(' '.join(words[1:]), where))
        length = float(np.linalg.norm(numbers[3:]))
        if not np.isfinite(numbers).all() or abs(length - 1.0) > _RIGID_TOLERANCE:
            raise DatasetError(f'{where}: position and unit quaternion must be finite')
        rotation = rotation_from_quaternion(numbers[3:] / length)
        pose = pose_matrix(rotation, numbers[:3])
        _add(poses, _stamp_ns(words[0], where), pose, where)
    return poses


def parse_numbers(text: str, source: Path | str) -> list[float]:
    """Return the numbers of a text, apart by blanks or commas.

    Raises:
        DatasetError: a word is not a number.

    """
    numbers = []
    for word in text.replace(',', ' ').split():
        try:
            numbers.append(float(word))
        except ValueError:
            raise DatasetError(f'{source}: {word[:40]!r} is not a number') from None
    return numbers


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding='utf-8')
    except (OSError, UnicodeDecodeError) as error:
        raise DatasetError(f'{path}: not a readable text file: {error}') from error


def _lines(path: Path) -> list[tuple[str, list[str]]]:
    """Return 'file, line N' and the words of each line that says something."""
    lines = []
    for number, line in enumerate(_text(path).splitlines(), start=1):
        words = line.partition('#')[0].split()
        if words:
            lines.append((f'{path}, line {number}', words))
    return lines


def _stamp_ns(word: str, where: str) -> int:
    """Turn seconds into nanoseconds without going through a float, which has too few digits."""
    try:
        seconds = Decimal(word)
    except InvalidOperation:
        raise DatasetError(f'{where}: {word[:40]!r} is not a time in seconds') from None
    if not seconds.is_finite() or not 0 <= seconds < _LATEST_S:
        raise DatasetError(f'{where}: time {word[:40]} s: must lie in 0 .. {_LATEST_S}')
    return int((seconds * _NS_PER_S).to_integral_value())


def _add(table: dict[int, Value], stamp_ns: int, value: Value, where: str) -> None:
    if stamp_ns in table:
        raise DatasetError(f'{where}: the time {stamp_ns} ns occurs a second time')
    table[stamp_ns] = value
