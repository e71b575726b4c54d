# Copyright 2026 qvggt_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""`qvggt convert`: an image folder, with poses if it has them, becomes a bag."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import track

from qvggt_ros.errors import UsageError
from qvggt_ros.evaluation.bag_writer import ENCODINGS, STORAGES, BagTopics, CameraBagWriter
from qvggt_ros.evaluation.image_folder import (
    NS_PER_S,
    FolderFrame,
    ImageFolder,
    open_image_folder,
    read_depth_m,
    read_rgb,
)
from qvggt_ros.evaluation.pose_files import intrinsics_from, parse_numbers, read_intrinsics
from qvggt_ros.reconstruction.geometry import BODY_FROM_OPTICAL


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument('--images', type=Path, required=True, help='7-Scenes, TUM or plain folder')
    parser.add_argument('--out', type=Path, required=True, help='the bag, a folder that appears')
    parser.add_argument('--rate', type=float, help="Hz, in place of the folder's own times")
    parser.add_argument('--start', type=float, default=0.0, help='seconds added to all times (0)')
    parser.add_argument('--intrinsics', help='fx,fy,cx,cy or a file with them or a 3x3 matrix')
    parser.add_argument('--encoding', choices=ENCODINGS, default='rgb8', help='of the images')
    parser.add_argument('--depth', action='store_true', help='write depth images as well')
    parser.add_argument('--storage', choices=tuple(STORAGES), default='mcap')
    parser.add_argument('--image-topic', default=BagTopics.image)
    parser.add_argument('--json', action='store_true', help='print one JSON object at the end')


def run(args: argparse.Namespace) -> int:
    """Convert; the bag appears whole or not at all."""
    if args.start < 0.0:
        raise UsageError(f'--start {args.start}: must not be negative')
    folder = open_image_folder(args.images, args.rate, _intrinsics(args.intrinsics))
    start_ns = round(args.start * NS_PER_S)
    base = args.image_topic.rpartition('/')[0]
    topics = BagTopics(image=args.image_topic, camera_info=f'{base}/camera_info')
    console = Console(stderr=True)
    with CameraBagWriter(args.out, args.storage, topics) as bag:
        for frame in track(folder.frames, f'{folder.layout} -> {args.out}', console=console):
            _write_frame(bag, folder, frame, start_ns, args)
    summary = _summary(folder, args.out)
    print(json.dumps(summary) if args.json else _sentence(summary))
    return 0


def _intrinsics(given: str | None) -> NDArray[np.float64] | None:
    if given is None:
        return None
    if ',' in given:
        source = f'--intrinsics {given}'
        return intrinsics_from(parse_numbers(given, source), source)
    return read_intrinsics(Path(given))


def _write_frame(
    bag: CameraBagWriter,
    folder: ImageFolder,
    frame: FolderFrame,
    start_ns: int,
    args: argparse.Namespace,
) -> None:
    stamp_ns = start_ns + frame.stamp_ns
    pixels = read_rgb(frame)
    if args.encoding == 'jpeg' and frame.image_path.suffix.lower() in ('.jpg', '.jpeg'):
        # The camera's own bytes: coding again would only lose.
        bag.write_compressed_image(stamp_ns, frame.image_path.read_bytes(), 'jpeg')
    else:
        bag.write_image(stamp_ns, pixels, args.encoding)
    if folder.intrinsics is not None:
        bag.write_camera_info(stamp_ns, folder.width, folder.height, folder.intrinsics)
    if frame.world_from_camera is not None:
        bag.write_pose(stamp_ns, map_from_camera(folder, frame.world_from_camera))
    if args.depth and frame.depth_path is not None:
        bag.write_depth(stamp_ns, read_depth_m(folder, frame))


def map_from_camera(
    folder: ImageFolder, world_from_camera: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Return a pose of the optical frame in a map with z up, [4, 4].

    A world that lies like a camera (x right, y down, z forward) is turned as REP 103 turns an
    optical frame into a body: forward becomes x, left y.
    """
    if folder.world_is_z_up:
        return world_from_camera
    return BODY_FROM_OPTICAL @ world_from_camera


def _summary(folder: ImageFolder, out: Path) -> dict[str, object]:
    stamps = [frame.stamp_ns for frame in folder.frames]
    return {
        'bag': str(out),
        'layout': folder.layout,
        'frames': len(stamps),
        'poses': sum(frame.world_from_camera is not None for frame in folder.frames),
        'camera_info': folder.intrinsics is not None,
        'width': folder.width,
        'height': folder.height,
        'duration_s': (stamps[-1] - stamps[0]) / NS_PER_S,
    }


def _sentence(summary: dict[str, object]) -> str:
    calibrated = 'with' if summary['camera_info'] else 'without'
    return (
        f'{summary["bag"]}: {summary["frames"]} images {summary["width"]}x{summary["height"]}, '
        f'{summary["poses"]} poses, {calibrated} camera_info, {summary["duration_s"]:.1f} s'
    )
