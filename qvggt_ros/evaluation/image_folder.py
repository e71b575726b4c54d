# Copyright 2026 qvggt_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Read image folders with poses: the layouts of 7-Scenes and TUM RGB-D, and plain folders.

| layout | recognised by | holds |
| --- | --- | --- |
| 7-Scenes | `frame-NNNNNN.color.jpg`, `.png` | `.pose.txt` world-from-camera, `.depth.png` mm |
| TUM | `rgb.txt` | `groundtruth.txt`, `depth.txt` (5000 steps per metre) |
| plain | neither | images in the order of their names |

A file `camera-intrinsics.txt` holds the 3x3 camera matrix, or fx fy cx cy.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from qvggt_ros.errors import DatasetError
from qvggt_ros.evaluation.pose_files import (
    read_intrinsics,
    read_pose_matrix,
    read_tum_list,
    read_tum_poses,
)

SEVEN_SCENES_RATE_HZ = 30
INTRINSICS_FILE = 'camera-intrinsics.txt'
IMAGE_SUFFIXES = ('.jpg', '.jpeg', '.png', '.bmp', '.ppm', '.tif', '.tiff', '.webp')
NS_PER_S = 1_000_000_000
# The tolerance of TUM's own associate.py.
TUM_TOLERANCE_NS = 20_000_000
_COLOR_NAME = re.compile(r'(frame-(\d+))\.color\.(?:jpg|jpeg|png)')


@dataclass(frozen=True)
class FolderFrame:
    """One image and what is known about it."""

    image_path: Path
    stamp_ns: int
    world_from_camera: NDArray[np.float64] | None = None  # rigid [4, 4], metres, OpenCV camera
    depth_path: Path | None = None  # 16-bit PNG; 0 is unknown


@dataclass(frozen=True)
class ImageFolder:
    """An image sequence in the order of its stamps."""

    path: Path
    layout: str  # '7-scenes', 'tum' or 'plain'
    frames: tuple[FolderFrame, ...]
    width: int
    height: int
    intrinsics: NDArray[np.float64] | None  # [3, 3], pixels
    depth_steps_per_m: float = 1000.0

    @property
    def world_is_z_up(self) -> bool:
        """Whether the poses' world has z up; that of 7-Scenes lies like a camera, y down."""
        return self.layout != '7-scenes'


def open_image_folder(
    path: Path,
    rate_hz: float | None = None,
    intrinsics: NDArray[np.float64] | None = None,
) -> ImageFolder:
    """Look at a folder: names, poses and sizes, but no pixels yet.

    Args:
        path: the folder.
        rate_hz: frames per second in place of the folder's own times; plain folders need it.
        intrinsics: [3, 3] in place of the folder's own.

    Raises:
        DatasetError: not a folder, no images, a missing or bad pose, unequal sizes.

    """
    if not path.is_dir():
        raise DatasetError(f'{path}: no such folder')
    if rate_hz is not None and not rate_hz > 0.0:
        raise DatasetError(f'{path}: rate {rate_hz} Hz: must be positive')
    layout, frames = _frames(path)
    if rate_hz is not None:
        frames = [
            replace(frame, stamp_ns=round(index * NS_PER_S / rate_hz))
            for index, frame in enumerate(frames)
        ]
    elif layout == 'plain':
        raise DatasetError(f'{path}: a plain image folder has no times; give the rate in Hz')
    width, height = _common_size(frames)
    own = path / INTRINSICS_FILE
    if intrinsics is None and own.exists():
        intrinsics = read_intrinsics(own)
    return ImageFolder(
        path=path,
        layout=layout,
        frames=tuple(frames),
        width=width,
        height=height,
        intrinsics=intrinsics,
        depth_steps_per_m=5000.0 if layout == 'tum' else 1000.0,
    )


def read_rgb(frame: FolderFrame) -> NDArray[np.uint8]:
    """Return an image as RGB, uint8 [H, W, 3].

    Raises:
        DatasetError: missing, truncated, or not an image.

    """
    try:
        with Image.open(frame.image_path) as image:
            return np.array(image.convert('RGB'))
    except (OSError, ValueError, SyntaxError) as error:
        raise DatasetError(f'{frame.image_path}: not a readable image: {error}') from error


def read_depth_m(folder: ImageFolder, frame: FolderFrame) -> NDArray[np.float32]:
    """Return z-depth in metres, float32 [h, w], 0 where unknown.

    Raises:
        DatasetError: there is none, or it is not a 16-bit image.

    """
    if frame.depth_path is None:
        raise DatasetError(f'{frame.image_path}: has no depth image')
    try:
        with Image.open(frame.depth_path) as image:
            steps = np.array(image)
    except (OSError, ValueError, SyntaxError) as error:
        raise DatasetError(f'{frame.depth_path}: not a readable image: {error}') from error
    if steps.ndim != 2 or steps.dtype.kind not in 'ui' or steps.dtype.itemsize < 2:
        raise DatasetError(f'{frame.depth_path}: depth must be one channel of 16 bits')
    if not folder.world_is_z_up:
        steps = np.where(steps == 65535, 0, steps)  # how 7-Scenes marks a missing reading
    return (steps / folder.depth_steps_per_m).astype(np.float32)


def _frames(path: Path) -> tuple[str, list[FolderFrame]]:
    names = sorted(entry.name for entry in path.iterdir() if entry.is_file())
    numbered = [match for match in map(_COLOR_NAME.fullmatch, names) if match]
    if numbered:
        return '7-scenes', _seven_scenes(path, numbered)
    if 'rgb.txt' in names:
        return 'tum', _tum(path)
    images = [name for name in names if Path(name).suffix.lower() in IMAGE_SUFFIXES]
    if not images:
        raise DatasetError(
            f'{path}: no images; expected frame-NNNNNN.color.jpg (7-Scenes), rgb.txt (TUM) '
            f'or files ending in {", ".join(IMAGE_SUFFIXES)}'
        )
    return 'plain', [FolderFrame(path / name, 0) for name in images]


def _seven_scenes(path: Path, numbered: list[re.Match[str]]) -> list[FolderFrame]:
    """Read frames whose number counts thirtieths of a second; all have a pose, or none has."""
    numbered = sorted(numbered, key=lambda match: int(match[2]))
    posed = [(path / f'{match[1]}.pose.txt').exists() for match in numbered]
    frames: list[FolderFrame] = []
    for match, has_pose in zip(numbered, posed, strict=True):
        pose_path = path / f'{match[1]}.pose.txt'
        if not has_pose and any(posed):
            raise DatasetError(f'{pose_path}: missing, though other images have their pose')
        depth_path = path / f'{match[1]}.depth.png'
        number = int(match[2])
        if frames and frames[-1].image_path.name.startswith(f'{match[1]}.'):
            raise DatasetError(f'{path / match[0]}: a second image of the same frame')
        frames.append(
            FolderFrame(
                image_path=path / match[0],
                stamp_ns=(2 * number * NS_PER_S + SEVEN_SCENES_RATE_HZ)
                // (2 * SEVEN_SCENES_RATE_HZ),
                world_from_camera=read_pose_matrix(pose_path) if has_pose else None,
                depth_path=depth_path if depth_path.exists() else None,
            )
        )
    return frames


def _tum(path: Path) -> list[FolderFrame]:
    """Read a TUM RGB-D folder; poses and depths are those nearest in time, within 20 ms."""
    images = read_tum_list(path / 'rgb.txt')
    if not images:
        raise DatasetError(f'{path / "rgb.txt"}: lists no images')
    truth, depths = path / 'groundtruth.txt', path / 'depth.txt'
    poses = read_tum_poses(truth) if truth.exists() else {}
    depth_names = read_tum_list(depths) if depths.exists() else {}
    pose_stamps, depth_stamps = sorted(poses), sorted(depth_names)
    frames = []
    for stamp_ns, name in sorted(images.items()):
        pose_ns = _nearest(pose_stamps, stamp_ns)
        depth_ns = _nearest(depth_stamps, stamp_ns)
        frames.append(
            FolderFrame(
                image_path=path / name,
                stamp_ns=stamp_ns,
                world_from_camera=None if pose_ns is None else poses[pose_ns],
                depth_path=None if depth_ns is None else path / depth_names[depth_ns],
            )
        )
    if poses and all(frame.world_from_camera is None for frame in frames):
        raise DatasetError(f'{truth}: no pose within 20 ms of any image')
    return frames


def _nearest(stamps: list[int], wanted: int) -> int | None:
    place = int(np.searchsorted(np.array(stamps, dtype=np.int64), wanted))
    near = [
        s for s in stamps[max(place - 1, 0) : place + 1] if abs(s - wanted) <= TUM_TOLERANCE_NS
    ]
    return min(near, key=lambda stamp: abs(stamp - wanted), default=None)


def _common_size(frames: list[FolderFrame]) -> tuple[int, int]:
    """Return width and height of all images, from their headers."""
    size = None
    for frame in frames:
        try:
            with Image.open(frame.image_path) as image:
                found = image.size
        except (OSError, ValueError, SyntaxError) as error:
            raise DatasetError(f'{frame.image_path}: not a readable image: {error}') from error
        size = size or found
        if found != size:
            raise DatasetError(
                f'{frame.image_path}: {found[0]}x{found[1]} pixels, but the images before it '
                f'have {size[0]}x{size[1]}; all must be equal'
            )
    assert size is not None
    return size
