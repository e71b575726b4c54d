# Copyright 2026 qvggt_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""`qvggt build-engine`: compile a bundle for one kind of GPU, with TensorRT or TensorRT-RTX."""

from __future__ import annotations

import argparse
import json
from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn
from rich.table import Table

from qvggt_ros.engine.built import ATTENTIONS, engine_file
from qvggt_ros.engine.half_types import HALF_TYPES
from qvggt_ros.engine.manifest import read_manifest
from qvggt_ros.engine.sidecar import Sidecar
from qvggt_ros.engine.tensorrt_library import LIBRARIES
from qvggt_ros.export.tensorrt_build import EngineBuild, build_engines


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument('bundle', type=Path, help='folder of the bundle')
    parser.add_argument('--engine', choices=sorted(LIBRARIES), default='tensorrt')
    add_engine_arguments(parser)
    parser.add_argument('--json', action='store_true', help='one JSON object as the last line')


def add_engine_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare what `qvggt build --engine` has too."""
    parser.add_argument(
        '--target',
        metavar='SM',
        help='compute capability of another GPU, e.g. sm_86 (tensorrt_rtx only); '
        "this machine's if not given",
    )
    parser.add_argument(
        '--type',
        choices=HALF_TYPES,
        default=HALF_TYPES[0],
        help='of products and attention; norms and the residual stream are float32 (float16)',
    )
    parser.add_argument(
        '--engine-attention',
        choices=ATTENTIONS,
        help='operator or pattern; what the library fuses if not given',
    )
    parser.add_argument('--workspace-mb', type=int, help="the builder's memory for trying kernels")
    parser.add_argument(
        '--timing-cache',
        type=Path,
        metavar='FILE',
        help='keeps what was measured of kernels: the next build here is faster (tensorrt only)',
    )


def run(args: argparse.Namespace) -> int:
    """Build and report."""
    folder, sidecar = build_with_bar(args, args.bundle)
    if args.json:
        print(json.dumps({'folder': str(folder), **asdict(sidecar)}))
    return 0


def build_with_bar(args: argparse.Namespace, bundle: Path) -> tuple[Path, Sidecar]:
    """Build a bundle's engines, with a bar for each graph, and print what came out."""
    manifest = read_manifest(bundle)
    build = EngineBuild(
        args.engine,
        args.target,
        args.type,
        args.engine_attention,
        args.workspace_mb,
        args.timing_cache,
    )
    with ExitStack() as stack:
        bars = GraphBars(stack)
        folder, sidecar = build_engines(bundle, manifest, build, bars.advance)
        bars.finish()
    _print(folder, sidecar)
    return folder, sidecar


class GraphBars:
    """A bar for each graph; nothing is shown before there is something to show."""

    def __init__(self, stack: ExitStack) -> None:
        self._stack = stack
        self._bar: Progress | None = None
        self._graph, self._task = '', TaskID(0)

    def advance(self, graph: str, phase: str, done: int, total: int) -> bool:
        """Show how far a graph is; a new one ends the one before."""
        if self._bar is None:
            columns = (TextColumn('{task.description}'), BarColumn(20), TimeElapsedColumn())
            bar = Progress(*columns, console=Console(stderr=True))
            self._bar = self._stack.enter_context(bar)
        if graph != self._graph:
            self.finish()
            self._graph, self._task = graph, self._bar.add_task(graph)
        shown = f'{graph}: {phase[:40]}'
        self._bar.update(self._task, completed=done, total=max(total, 1), description=shown)
        return True

    def finish(self) -> None:
        """Mark the current graph as done."""
        if self._bar is not None and self._graph:
            self._bar.update(self._task, completed=1, total=1, description=self._graph)


def _print(folder: Path, sidecar: Sidecar) -> None:
    table = Table()
    for heading in ('graph', 'engine, MB', 'built in, s'):
        table.add_column(heading, justify='left' if heading == 'graph' else 'right')
    for name, built in sidecar.graphs.items():
        megabytes = (folder / engine_file(name)).stat().st_size / 1e6
        table.add_row(name, f'{megabytes:.1f}', f'{built.seconds:.1f}')
    Console(width=None if Console().is_terminal else 120).print(table)
    if sidecar.self_check is None:
        print(
            f'{folder}: compiled, never run: the GPU is not here; it is checked before first use'
        )
    else:
        worst = max(sidecar.self_check.values())
        print(f'{folder}: compiled and checked, {worst:.1e} from the float network')
