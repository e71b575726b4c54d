# Copyright 2026 qvggt_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""`qvggt drive-error`: a bundle's or checkpoint's trajectories through rendered test rooms."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from qvggt_ros.engine import ENGINES, Engine, open_bundle
from qvggt_ros.errors import DatasetError, UsageError
from qvggt_ros.evaluation.eval_command import is_bundle, open_network
from qvggt_ros.evaluation.sequence_error import sequence_error, synthetic_sequence
from qvggt_ros.reconstruction.align import ALIGN_BY, AlignmentConfig
from qvggt_ros.reconstruction.reconstructor import ReconstructionConfig
from qvggt_ros.synthetic.seeds import TEST_SEEDS_FROM

WIDTH, HEIGHT = 320, 240
CHECKPOINT_FRAMES = 4
# (key, heading, factor, decimals)
COLUMNS = (
    ('path_m', 'path, m', 1, 1),
    ('ate_rmse_m', 'ATE, m', 1, 3),
    ('ate_share', 'ATE, % of path', 100, 2),
    ('rpe_trans_m', 'RPE, cm', 100, 2),
    ('rpe_rot_deg', 'RPE, degrees', 1, 3),
)

Drives = dict[int, dict[str, float]]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument('model', type=Path, help='a bundle folder or a .safetensors checkpoint')
    parser.add_argument('--engine', choices=ENGINES, default=ENGINES[0], help='runs a bundle')
    parser.add_argument(
        '--seed', type=int, default=TEST_SEEDS_FROM, help=f'of the first room ({TEST_SEEDS_FROM})'
    )
    parser.add_argument('--drives', type=int, default=10, help='rooms driven through (10)')
    parser.add_argument('--frames', type=int, default=200, help='images per drive, at 10 Hz (200)')
    parser.add_argument('--window-frames', type=int, default=0, help="per window; 0: the bundle's")
    parser.add_argument('--stride', type=int, default=0, help='new frames per window; 0: half')
    parser.add_argument('--anchor-frames', type=int, default=2, help='shared frames that tie (2)')
    parser.add_argument('--align-by', choices=ALIGN_BY, default=ALIGN_BY[0])
    parser.add_argument(
        '--in-order', action='store_true', help='run no window backwards (else every second one)'
    )
    parser.add_argument('--json', action='store_true', help='one JSON object as the last line')


def run(args: argparse.Namespace) -> int:
    """Drive, reconstruct, compare, print."""
    if args.drives < 1:
        raise UsageError(f'--drives {args.drives}: must be at least 1')
    engine = _open(args)
    config = ReconstructionConfig(
        window_frames=args.window_frames,
        stride=args.stride,
        anchor_frames=args.anchor_frames,
        alternate_order=not args.in_order,
        alignment=AlignmentConfig(rigid_from=args.align_by),
    )
    drives: Drives = {}
    with Progress(console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task('driving', total=args.drives * args.frames)
        for seed in range(args.seed, args.seed + args.drives):
            sequence = synthetic_sequence(seed, args.frames, WIDTH, HEIGHT)
            try:
                drives[seed] = sequence_error(
                    engine, sequence, config, progress=lambda _: bar.advance(task)
                )
            except DatasetError as error:
                raise DatasetError(f'drive through room {seed}: {error}') from error
    means = {key: float(np.mean([d[key] for d in drives.values()])) for key, *_ in COLUMNS}
    Console().print(_table(args, drives, means))
    if args.json:
        print(json.dumps({**means, 'drives': len(drives), 'frames': args.frames}))
    return 0


def _open(args: argparse.Namespace) -> Engine:
    if is_bundle(args.model):
        return open_bundle(args.model, args.engine)
    model = open_network(args.model).float()
    from qvggt_ros.evaluation.torch_engine import TorchEngine

    return TorchEngine(model, args.window_frames or CHECKPOINT_FRAMES)


def _table(args: argparse.Namespace, drives: Drives, means: dict[str, float]) -> Table:
    table = Table(title=f'{args.model}: drives of {args.frames} images')
    table.add_column('room')
    for _, heading, _, _ in COLUMNS:
        table.add_column(heading, justify='right')
    rows: dict[Any, dict[str, float]] = {**drives, 'mean': means}
    for name, figures in rows.items():
        table.add_row(
            str(name),
            *(f'{factor * figures[key]:.{decimals}f}' for key, _, factor, decimals in COLUMNS),
        )
    return table
