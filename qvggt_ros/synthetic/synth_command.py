# Copyright 2026 qvggt_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""`qvggt synth`: render recordings of procedural rooms; train and describe the demo model."""

from __future__ import annotations

import argparse
import importlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.progress import track

from qvggt_ros.errors import UsageError
from qvggt_ros.evaluation.bag_writer import ENCODINGS, STORAGES, CameraBagWriter
from qvggt_ros.image_size import parse_image_size
from qvggt_ros.synthetic.arrays import NUMPY
from qvggt_ros.synthetic.drive import plan_drive, render_drive
from qvggt_ros.synthetic.sequences import SequenceBatch

DEMO_SEED = 10_093
# Recordings begin at a time that no clock shows by accident.
FIRST_STAMP_NS = 1_700_000_000_000_000_000
_NS_PER_S = 1_000_000_000
# name -> (module with `add_arguments(parser)` and `run(args) -> int`, one line of help)
PYTORCH_TASKS = {
    'train': ('qvggt_ros.synthetic.train_command', 'train the demo model'),
    'average': ('qvggt_ros.synthetic.average_command', 'average models of one training'),
    'card': (
        'qvggt_ros.synthetic.card_command',
        'describe a trained model: a card and its curves',
    ),
}


class _TaskParser(argparse.ArgumentParser):
    """The parser of one task; where its module needs PyTorch, it is loaded with the first word."""

    def __init__(self, module_name: str = '', **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self._module_name = module_name

    def parse_known_args(  # type: ignore[override]
        self, args: Sequence[str] | None = None, namespace: argparse.Namespace | None = None
    ) -> tuple[argparse.Namespace, list[str]]:
        if self._module_name:
            module = importlib.import_module(self._module_name)
            self._module_name = ''
            module.add_arguments(self)
            self.set_defaults(run_task=module.run)
        return super().parse_known_args(args, namespace)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of all tasks."""
    subparsers = parser.add_subparsers(
        dest='task', required=True, metavar='TASK', parser_class=_TaskParser
    )
    bag = subparsers.add_parser('bag', help="a robot's drive through a room, with ground truth")
    bag.add_argument('--out', type=Path, required=True, help='the bag, a folder that appears')
    bag.add_argument('--seed', type=int, default=DEMO_SEED, help=f'of the room ({DEMO_SEED})')
    bag.add_argument('--frames', type=int, default=200)
    bag.add_argument('--size', default='320x240', metavar='WxH', help='pixels (320x240)')
    bag.add_argument('--rate', type=float, default=10.0, help='frames per second (10)')
    bag.add_argument('--depth', action='store_true', help='write true depth as 32FC1 as well')
    bag.add_argument('--encoding', choices=ENCODINGS, default='rgb8')
    bag.add_argument('--storage', choices=tuple(STORAGES), default='mcap')
    bag.add_argument('--samples', type=int, default=2, help='per pixel and axis (2)')
    bag.set_defaults(run_task=write_bag)
    for name, (module_name, help_line) in PYTORCH_TASKS.items():
        subparsers.add_parser(name, help=help_line, module_name=module_name)


def run(args: argparse.Namespace) -> int:
    """Run the chosen task."""
    return int(args.run_task(args))


def write_bag(args: argparse.Namespace) -> int:
    """Render a drive into a bag, which appears whole or not at all."""
    width, height = _image_size(args.size)
    if args.samples < 1:
        raise UsageError(f'--samples {args.samples}: must be positive')
    console = Console(stderr=True)
    with CameraBagWriter(args.out, args.storage) as bag:
        drive = plan_drive(args.seed, args.frames, width, height, args.rate)
        parts = render_drive(drive, NUMPY, args.samples)
        steps = range(args.frames)
        frames = (frame for part in parts for frame in _frames(part))
        title = f'room {args.seed} -> {args.out}'
        for _, frame in zip(track(steps, title, console=console), frames, strict=True):
            _write_frame(bag, frame, args)
    print(f'{args.out}: {args.frames} images {width}x{height}, {args.frames / args.rate:.1f} s')
    return 0


def _image_size(text: str) -> tuple[int, int]:
    """Return width and height; UsageError if they are too small or too large to render."""
    width, height = parse_image_size(text)
    if not (16 <= width <= 4096 and 16 <= height <= 4096):
        raise UsageError(f'--size {text}: each side must have 16 to 4096 pixels')
    return width, height


def _frames(part: SequenceBatch) -> list[SequenceBatch]:
    """Split a part of a drive into its frames, without batch and frame axes."""
    names = ('images', 'depth_m', 'camera_from_world', 'intrinsics', 'stamp_s')
    return [
        SequenceBatch(
            **{name: getattr(part, name)[0, index] for name in names},
            motion_kind=part.motion_kind,
        )
        for index in range(part.images.shape[1])
    ]


def _write_frame(bag: CameraBagWriter, frame: SequenceBatch, args: argparse.Namespace) -> None:
    stamp_ns = FIRST_STAMP_NS + round(float(frame.stamp_s) * _NS_PER_S)
    pixels = np.ascontiguousarray(np.asarray(frame.images).transpose(1, 2, 0))
    height, width = pixels.shape[:2]
    bag.write_image(stamp_ns, pixels, args.encoding)
    intrinsics = np.asarray(frame.intrinsics, dtype=np.float64)
    bag.write_camera_info(stamp_ns, width, height, intrinsics)
    bag.write_pose(stamp_ns, _inverse(np.asarray(frame.camera_from_world, dtype=np.float64)))
    if args.depth:
        bag.write_depth(stamp_ns, np.asarray(frame.depth_m))


def _inverse(camera_from_world: np.ndarray) -> np.ndarray:
    """Return map_from_camera: a room's world is the map, metric and with z up."""
    rotation, shift = camera_from_world[:3, :3], camera_from_world[:3, 3]
    inverse = np.eye(4)
    inverse[:3, :3], inverse[:3, 3] = rotation.T, -rotation.T @ shift
    return inverse
