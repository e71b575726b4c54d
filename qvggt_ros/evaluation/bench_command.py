# Copyright 2026 qvggt_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""`qvggt bench`: latency of bundles and of PyTorch, measured in turn in one run.

Every round runs every contender once on the same images, so that a ratio compares what happened
within the same second; medians of ratios hold on machines whose speed drifts. Each contender has
a process of its own, and so its own peak of memory.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import platform
from collections.abc import Callable
from contextlib import ExitStack, closing
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.progress import track
from rich.table import Table

from qvggt_ros.engine import ENGINES, read_manifest
from qvggt_ros.engine.manifest import Manifest
from qvggt_ros.errors import UsageError
from qvggt_ros.evaluation.bench_worker import Competitor, Job
from qvggt_ros.processor import processor_name

STAGES = ('encoder', 'window', 'depth')
PERCENTILES = (50, 95, 99)
WARM_UP_ROUNDS = 2

Timed = Callable[[], dict[str, float]]  # runs one window -> seconds of each stage


@dataclass
class Contender:
    """One thing that is timed.

    Attributes:
        name, engine, precision: for the report.
        run: one window.
        weights_mb: of its files, or of PyTorch's parameters.
        seconds: of each stage, one number per round.
        peak_mb: the most memory that it took.

    """

    name: str
    engine: str
    precision: str
    run: Timed
    weights_mb: float
    seconds: dict[str, list[float]] = field(
        default_factory=lambda: {stage: [] for stage in (*STAGES, 'total')}
    )
    peak_mb: float = 0.0


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument('bundles', type=Path, nargs='+', help='bundles to compare')
    parser.add_argument(
        '--torch',
        type=Path,
        metavar='FILE',
        help='a checkpoint to run in PyTorch float32 too; "random": the first bundle\'s network '
        'with random weights',
    )
    parser.add_argument(
        '--engine', choices=ENGINES, default=ENGINES[0], help='what runs the bundles (onnxruntime)'
    )
    parser.add_argument('--frames', type=int, default=0, help="per window (the first bundle's)")
    parser.add_argument('--rounds', type=int, default=30, help='windows each (30)')
    parser.add_argument('--threads', type=int, default=0, help='CPU threads; 0: all')
    parser.add_argument('--json', action='store_true', help='one JSON object as the last line')


def run(args: argparse.Namespace) -> int:
    """Time all contenders and print the comparison."""
    if args.rounds < 1 or args.threads < 0 or args.frames < 0:
        raise UsageError('--rounds must be at least 1; --threads and --frames not negative')
    manifests = [read_manifest(path) for path in args.bundles]
    first = manifests[0]
    size = (first.image_height, first.image_width)
    for path, manifest in zip(args.bundles, manifests, strict=True):
        if (manifest.image_height, manifest.image_width) != size:
            raise UsageError(f'{path}: has another image size than {args.bundles[0]}')
    frames = args.frames or first.window_frames
    with ExitStack() as stack:
        contenders = [
            _contender(stack, args, path, manifest, frames)
            for path, manifest in zip(args.bundles, manifests, strict=True)
        ]
        if args.torch is not None:
            contenders.append(_contender(stack, args, args.torch, first, frames, torch=True))
        measure([contender for contender, _ in contenders], args.rounds)
        for contender, competitor in contenders:
            contender.peak_mb = competitor.peak_mb()
    report = report_of([contender for contender, _ in contenders], frames, size)
    Console(width=None if Console().is_terminal else 120).print(_table(report))
    if args.json:
        print(json.dumps(report))
    return 0


def measure(contenders: list[Contender], rounds: int) -> None:
    """Run all contenders in turn; the first rounds are not counted."""
    total = WARM_UP_ROUNDS + rounds
    for index in track(range(total), 'timing', console=Console(stderr=True), transient=True):
        for contender in contenders:
            seconds = contender.run()
            if index < WARM_UP_ROUNDS:
                continue
            for stage in STAGES:
                contender.seconds[stage].append(seconds[stage])
            contender.seconds['total'].append(sum(seconds.values()))


def _contender(
    stack: ExitStack,
    args: argparse.Namespace,
    path: Path,
    manifest: Manifest,
    frames: int,
    torch: bool = False,
) -> tuple[Contender, Competitor]:
    """Start a contender's process; the stack ends it."""
    job = Job(
        path=path,
        engine='torch' if torch else args.engine,
        model_config=manifest.model_config,
        frames=frames,
        height=manifest.image_height,
        width=manifest.image_width,
        threads=args.threads,
    )
    competitor = stack.enter_context(closing(Competitor(job)))
    run = competitor.run_window
    if torch:
        return Contender('torch', 'torch', 'fp32', run, competitor.weights_mb), competitor
    precision, size = manifest.precision, _graphs_mb(path, manifest)
    return Contender(path.name, args.engine, precision, run, size), competitor


def _graphs_mb(path: Path, manifest: Manifest) -> float:
    return sum((path / file).stat().st_size for file in manifest.graph_files) / 1e6


def report_of(
    contenders: list[Contender], frames: int, size: tuple[int, int]
) -> dict[str, object]:
    """Return the report: `host`, `runs`, `speedup` (median over the rounds of A's time / B's)."""
    runs = [
        {
            'name': contender.name,
            'engine': contender.engine,
            'precision': contender.precision,
            'frames': frames,
            'height': size[0],
            'width': size[1],
            'stages': {
                stage: {
                    f'p{p}_ms': round(float(np.percentile(values, p)) * 1000, 3)
                    for p in PERCENTILES
                }
                for stage, values in contender.seconds.items()
            },
            'weights_mb': round(contender.weights_mb, 3),
            'peak_rss_mb': round(contender.peak_mb, 1),
        }
        for contender in contenders
    ]
    speedup = {
        f'{a.name}/{b.name}': round(
            float(np.median(np.divide(a.seconds['total'], b.seconds['total']))), 3
        )
        for a, b in itertools.permutations(contenders, 2)
    }
    return {'host': _host(), 'runs': runs, 'speedup': speedup}


def _host() -> dict[str, object]:
    import onnxruntime

    return {
        'machine': platform.machine(),
        'processor': processor_name(),
        'cores': len(os.sched_getaffinity(0)),
        'python': platform.python_version(),
        'onnxruntime': onnxruntime.__version__,
    }


def _table(report: dict[str, object]) -> Table:
    runs: list[dict[str, object]] = report['runs']  # type: ignore[assignment]
    first = runs[0]
    table = Table(title=f'{first["frames"]} frames of {first["width"]}x{first["height"]}: p50, ms')
    for heading in (
        'contender',
        'precision',
        *STAGES,
        'total',
        'p95',
        'weights, MB',
        'memory, MB',
    ):
        table.add_column(heading, justify='right' if heading not in ('contender',) else 'left')
    for run_ in runs:
        stages: dict[str, dict[str, float]] = run_['stages']  # type: ignore[assignment]
        table.add_row(
            str(run_['name']),
            str(run_['precision']),
            *(f'{stages[stage]["p50_ms"]:.1f}' for stage in (*STAGES, 'total')),
            f'{stages["total"]["p95_ms"]:.1f}',
            f'{run_["weights_mb"]:.1f}',
            f'{run_["peak_rss_mb"]:.0f}',
        )
    for pair, ratio in report['speedup'].items():  # type: ignore[attr-defined]
        table.add_row(f'{pair}: {ratio:.2f}')
    return table
