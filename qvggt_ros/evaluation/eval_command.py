# Copyright 2026 qvggt_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""`qvggt eval`: pose and depth accuracy of a bundle or a checkpoint."""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from qvggt_ros.engine import ENGINES, open_bundle
from qvggt_ros.errors import UsageError
from qvggt_ros.evaluation.accuracy import (
    Predict,
    WindowBatch,
    engine_predictor,
    evaluate,
    folder_windows,
    synthetic_windows,
    torch_predictor,
)

if TYPE_CHECKING:
    from qvggt_ros.vggt import VGGT

SYNTHETIC_PREFIX = 'synthetic:'
UNITS = {'rot_median_deg': 'degrees', 'trans_median_deg': 'degrees', 'windows': ''}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument('model', type=Path, help='a bundle folder or a .safetensors checkpoint')
    parser.add_argument(
        '--data', required=True, help='synthetic:SEED (SEED >= 10000), or an image+pose folder'
    )
    parser.add_argument(
        '--engine', choices=ENGINES, default=ENGINES[0], help='what runs a bundle (onnxruntime)'
    )
    parser.add_argument('--windows', type=int, default=500, help='how many windows (500)')
    parser.add_argument('--frames', type=int, default=4, help='frames per window (4)')
    parser.add_argument(
        '--step', type=int, default=5, help='a window takes every step-th image of a folder (5)'
    )
    parser.add_argument('--json', action='store_true', help='one JSON object as the last line')


def run(args: argparse.Namespace) -> int:
    """Evaluate and print the table."""
    for name, least in (('windows', 1), ('frames', 2), ('step', 1)):
        if getattr(args, name) < least:
            raise UsageError(f'--{name} {getattr(args, name)}: must be at least {least}')
    predict, width, height = open_model(args.model, args.engine)
    batches = open_data(args, width, height)
    console = Console(stderr=True)
    with Progress(console=console, transient=True) as bar:
        task = bar.add_task('evaluating', total=args.windows)
        figures = evaluate(predict, batches, lambda done: bar.update(task, completed=done))
    if figures['windows'] == 0:
        raise UsageError(f'--data {args.data}: holds no window of {args.frames} frames')
    Console().print(_table(args, figures))
    if args.json:
        # JSON has no NaN: what could not be measured is null.
        known = {k: v if math.isfinite(v) else None for k, v in figures.items()}
        print(json.dumps(known))
    return 0


def open_model(path: Path, engine_name: str = ENGINES[0]) -> tuple[Predict, int, int]:
    """Open a bundle (folder) or checkpoint (file): its predictor, image width and height."""
    if is_bundle(path):
        engine = open_bundle(path, engine_name)
        return engine_predictor(engine), engine.manifest.image_width, engine.manifest.image_height
    model = open_network(path)
    return torch_predictor(model), model.config.pretrain_width, model.config.pretrain_height


def is_bundle(path: Path) -> bool:
    """Return whether a path is a bundle's folder."""
    return (path / 'manifest.json').exists()


def open_network(path: Path) -> VGGT:
    """Load a checkpoint, or a folder's own, for this process to compute with."""
    if not path.exists():
        raise UsageError(f'{path}: no such bundle or checkpoint')
    from qvggt_ros.vggt import fit_threads, load_model

    file = path / 'model.safetensors' if path.is_dir() else path
    model = load_model(file)
    fit_threads(model.config)
    return model


def open_data(args: argparse.Namespace, width: int, height: int) -> Iterator[WindowBatch]:
    """Open `--data`; see the command's help."""
    data: str = args.data
    if not data.startswith(SYNTHETIC_PREFIX):
        return folder_windows(Path(data), args.windows, args.frames, args.step, width, height)
    seed = data.removeprefix(SYNTHETIC_PREFIX)
    if not seed.isdecimal():
        raise UsageError(f'--data {data}: after "synthetic:" comes a whole number, the first seed')
    return synthetic_windows(int(seed), args.windows, args.frames, width, height)


def _table(args: argparse.Namespace, figures: dict[str, float]) -> Table:
    table = Table(title=f'{args.model} on {args.data}, windows of {args.frames} frames')
    table.add_column('figure')
    table.add_column('value', justify='right')
    table.add_column('unit')
    for name, value in figures.items():
        unit = '% of pairs' if name.startswith('auc') else UNITS.get(name, 'share')
        table.add_row(name, f'{value:.4g}', unit)
    return table
