# Copyright 2026 qvggt_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""What `qvggt build` shows: progress while it runs, tables before and after."""

from __future__ import annotations

import argparse
import json
import resource
import sys
from collections import Counter
from types import TracebackType

import torch
from rich.console import Console
from rich.progress import (
    BarColumn,
    Progress,
    SpinnerColumn,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.table import Table

from qvggt_ros.engine.manifest import GOLDEN_OUTPUTS, Manifest
from qvggt_ros.quantization.nfds import CalibrationSet
from qvggt_ros.quantization.recipe import NONE, LayerPlan, plan_layers
from qvggt_ros.vggt import VGGT, VGGTConfig

WORST_LAYERS = 8


class StepReport:
    """One line per step, with its time; a bar and the time left where a step has parts."""

    def __init__(self, console: Console) -> None:
        self._progress = Progress(
            SpinnerColumn(),
            TextColumn('{task.description}'),
            BarColumn(bar_width=20),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            console=console,
        )
        self._task: int | None = None
        self._advancing = ''

    def __enter__(self) -> StepReport:
        self._progress.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.end()
        self._progress.stop()

    def begin(self, step: str, total: int = 1) -> None:
        """End the step before and show the next one."""
        self.end()
        self._task = self._progress.add_task(step, total=total)

    def advance(self, what: str, done: int, total: int) -> None:
        """Show how far a step with parts is; `what` names the part."""
        title = what if what == 'calibration windows' else 'quantising'
        if self._advancing != title or self._task is None:
            self.begin(title, total)
            self._advancing = title
        assert self._task is not None
        shown = title if title == what else f'quantising {what}'
        self._progress.update(self._task, completed=done, total=total, description=shown)  # type: ignore[arg-type]

    def end(self) -> None:
        """Mark the current step as done."""
        if self._task is not None:
            task = self._progress.tasks[self._task]
            self._progress.update(self._task, completed=task.total)  # type: ignore[arg-type]
            self._task = None
        self._advancing = ''

    def note_calibration(self, chosen: CalibrationSet) -> None:
        """Say what was kept and dropped of the calibration windows, and why."""
        report = chosen.report
        if report is None:
            return
        reasons = Counter(reason.split(':')[0] for reason in report.dropped.values())
        why = ''.join(f'; {count} {reason}' for reason, count in reasons.most_common())
        self._progress.console.print(
            f'calibration: {len(chosen.windows)} of {report.candidates} windows of {report.pool}, '
            f'{len(report.dropped)} dropped{why}'
        )


def print_plan(config: VGGTConfig, precision: str, method: str) -> None:
    """Print how each layer would be quantised."""
    if precision == 'fp32':
        print('fp32: every layer stays in float')
        return
    with torch.device('meta'):
        model = VGGT(config)
    plans = plan_layers(model, precision, method)
    table = Table(title=f'{precision} by {method}')
    for heading in ('layer', 'weights', 'step per', 'input', 'before it'):
        table.add_column(heading)
    for name, plan in plans.items():
        table.add_row(name, *plan_words(plan))
    # Piped into a file or a pager, a table must not be cut off at 80 columns.
    Console(width=None if sys.stdout.isatty() else 140).print(table)
    before, after = weight_bytes(model, {}), weight_bytes(model, plans)
    print(
        f'weights: {before / 1e6:.1f} MB in float32, {after / 1e6:.1f} MB in {precision} '
        f'({after / before:.3f}), steps included'
    )


def weight_bytes(model: VGGT, plans: dict[str, LayerPlan]) -> float:
    """Return the bytes of a network's parameters, with what quantised ones need beside them."""
    total = 0.0
    for name, parameter in model.named_parameters():
        plan = plans.get(name.removesuffix('.weight'))
        if plan is None or plan.weight_bits >= 16 or not name.endswith('.weight'):
            total += 4 * parameter.numel()
            continue
        inputs = parameter[0].numel()
        blocks = 1 if plan.weight_block is None else inputs // plan.weight_block
        total += parameter.numel() * plan.weight_bits / 8 + 4 * len(parameter) * blocks
    return total


def plan_words(plan: LayerPlan) -> tuple[str, str, str, str]:
    """Return weights, granularity, input and transforms of a plan, in words."""
    if plan.weight_bits >= 16:
        return 'float', '', 'float', ''
    per = 'output channel' if plan.weight_block is None else f'{plan.weight_block} inputs'
    given = 'float'
    if plan.activation != NONE:
        integers = 'two int8' if plan.in_two_parts else f'int{plan.activation_bits}'
        given = f'{plan.activation} {integers}' + (' offset' if plan.offset else '')
        if plan.activation_block is not None:
            given += f', {plan.activation_block} channels'
    transforms = []
    if plan.hadamard:
        transforms.append('online Hadamard')
    if plan.smoothing != NONE:
        transforms.append(f'smoothing ({plan.smoothing})')
    return f'int{plan.weight_bits}', per, given, ', '.join(transforms)


def print_result(args: argparse.Namespace, manifest: Manifest, seconds: float) -> None:
    """Say what was built, for people and on request for programs."""
    files = [*manifest.graph_files, manifest.golden.file]
    megabytes = sum((args.out / file).stat().st_size for file in files) / 1e6
    worst = max(manifest.golden.errors.values())
    peak_mb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    if manifest.layers:
        print_losses(manifest)
    print(
        f'{args.out}: {manifest.model} {manifest.precision}, {manifest.window_frames} frames of '
        f'{manifest.image_width}x{manifest.image_height}, {megabytes:.1f} MB, '
        f'{worst:.1e} from the float network, {seconds:.0f} s, at most {peak_mb:.0f} MB of memory'
    )
    if args.json:
        print(
            json.dumps(
                {
                    'name': manifest.name,
                    'folder': str(args.out),
                    'precision': manifest.precision,
                    'method': manifest.method,
                    'megabytes': round(megabytes, 3),
                    'seconds': round(seconds, 1),
                    'peak_mb': round(peak_mb),
                    'errors': manifest.golden.errors,
                }
            )
        )


def print_losses(manifest: Manifest) -> None:
    """Print where a quantised network loses most, and what its answers lose in the end."""
    table = Table(title=f'{manifest.name}: where {manifest.precision} costs most')
    table.add_column('layer')
    table.add_column('error of its output', justify='right')
    ordered = sorted(manifest.layers, key=lambda layer: -layer.relative_error)
    for layer in ordered[:WORST_LAYERS]:
        table.add_row(layer.name, f'{layer.relative_error**0.5:.2%}')
    for name in GOLDEN_OUTPUTS:
        error = manifest.golden.errors[name]
        table.add_row(f'answer: {name} (largest error over largest value)', f'{error:.2%}')
    Console(width=None if sys.stdout.isatty() else 120).print(table)
