# Copyright 2026 qvggt_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""`qvggt synth train`: train the demo model, for as long as there is time."""

from __future__ import annotations

import argparse
import json
import math
import os
from collections.abc import Iterator
from pathlib import Path

import torch
from rich.console import Console
from rich.progress import Progress as ProgressBar
from rich.progress import TextColumn, TimeRemainingColumn

from qvggt_ros.errors import CheckpointError, UsageError
from qvggt_ros.evaluation.accuracy import SYNTHETIC_BATCH, WindowBatch, evaluate, torch_predictor
from qvggt_ros.synthetic.cpu import keep_freed_memory
from qvggt_ros.synthetic.seeds import TEST_SEEDS_FROM, training_seeds
from qvggt_ros.synthetic.sequences import render_batch
from qvggt_ros.synthetic.train_checkpoint import Progress
from qvggt_ros.synthetic.train_config import TrainConfig
from qvggt_ros.synthetic.training import Trainer
from qvggt_ros.synthetic.window_source import Rendered, Renderer
from qvggt_ros.synthetic.windows import WINDOW_MOTION, training_motion
from qvggt_ros.synthetic.workers import Worker, run_workers
from qvggt_ros.vggt import VGGT, VGGTConfig, load_model, save_checkpoint

# Rooms that are neither trained on nor tested with: the periodic validation looks at them.
VALIDATION_SEED = 0
VALIDATION_FRAMES = 4


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument('--run', type=Path, required=True, help='run file; resumed if it exists')
    parser.add_argument('--minutes', type=float, required=True, help='length of this run')
    parser.add_argument('--out', type=Path, help='write the averaged model here (.safetensors)')
    parser.add_argument('--init', type=Path, help='weights that a new run begins with')
    parser.add_argument(
        '--init-windows',
        type=int,
        default=0,
        metavar='N',
        help='windows those were trained on: the curriculum goes on from there',
    )
    parser.add_argument('--device', default='cuda' if torch.cuda.is_available() else 'cpu')
    parser.add_argument('--cooldown', action='store_true', help='let the learning rate fall to 0')
    parser.add_argument(
        '--learning-rate',
        type=float,
        default=TrainConfig.learning_rate,
        help="AdamW's; Muon's is twice that",
    )
    parser.add_argument('--frames-per-step', type=int, default=TrainConfig.frames_per_step)
    parser.add_argument('--ring', type=int, default=TrainConfig.ring_sequences)
    parser.add_argument('--uses-per-window', type=float, default=TrainConfig.uses_per_window)
    parser.add_argument(
        '--processes', type=int, help='training processes; on a CPU one per core if not given'
    )


def run(args: argparse.Namespace) -> int:
    """Train; resumes where the run file ends."""
    _check(args)
    config = TrainConfig(
        learning_rate=args.learning_rate,
        frames_per_step=args.frames_per_step,
        ring_sequences=args.ring,
        uses_per_window=args.uses_per_window,
    )
    processes = args.processes or (_cores() if args.device == 'cpu' else 1)
    run_workers(processes, _train, args, config)
    return 0


def _check(args: argparse.Namespace) -> None:
    """Refuse what would fail late, or fail with a traceback."""
    for name in ('minutes', 'learning_rate', 'frames_per_step', 'ring', 'uses_per_window'):
        value = getattr(args, name)
        if not 0 < value < math.inf:
            raise UsageError(f'--{name.replace("_", "-")} {value}: must be positive')
    if args.processes is not None and args.processes < 1:
        raise UsageError(f'--processes {args.processes}: must be positive')
    if args.init_windows < 0:
        raise UsageError(f'--init-windows {args.init_windows}: must not be negative')
    for name in ('run', 'out'):
        path = getattr(args, name)
        if path is not None and path.suffix != '.safetensors':
            raise UsageError(f'--{name} {path}: must end in .safetensors')
    try:
        torch.empty(0, device=args.device)
    except (RuntimeError, AssertionError) as error:  # the latter of builds without CUDA
        reason = str(error).splitlines()[0]
        raise UsageError(f'--device {args.device}: cannot be used: {reason}') from error


def _cores() -> int:
    """Return how many cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, 'sched_getaffinity') else 1


def _train(worker: Worker, args: argparse.Namespace, config: TrainConfig) -> None:
    """Train in one of the processes; the leading one shows how it goes."""
    keep_freed_memory()
    model_config = VGGTConfig.demo()
    renderer = _renderer(model_config, args.device, worker)
    trainer = Trainer(model_config, config, renderer, args.run, args.device, worker)
    if args.init and not args.run.exists():
        trainer.begin_with(load_model(args.init), args.init_windows)
    history = args.run.with_suffix('.jsonl')
    console = Console(quiet=not worker.leads)
    with ProgressBar(
        TextColumn('{task.description}'), TimeRemainingColumn(), console=console
    ) as bar:
        task = bar.add_task('rendering the first rooms', total=60 * args.minutes)
        begun = trainer.progress.seconds

        def report(progress: Progress, means: dict[str, float]) -> None:
            bar.update(
                task, completed=progress.seconds - begun, description=_line(progress, means)
            )
            _append(history, {'kind': 'loss', **_counters(progress), **means})

        def validate(model: VGGT, progress: Progress) -> None:
            figures = evaluate(
                torch_predictor(model, args.device), _validation_batches(model_config, config)
            )
            _append(history, {'kind': 'validation', **figures, **_counters(progress)})
            shown = ' '.join(f'{name} {value:.3g}' for name, value in figures.items())
            console.print(f'{progress.windows} windows: {shown}')
            if args.out:
                save_checkpoint(args.out, model, torch.float16)

        trainer.run(args.minutes, report, validate, args.cooldown)


def _renderer(model_config: VGGTConfig, device: str, worker: Worker) -> Renderer:
    """Render training rooms at the model's size; the workers take them in turn."""

    def render(first: int, count: int, frames: int, most_motion: float) -> Rendered:
        seeds = training_seeds(first * worker.count, count * worker.count)
        batch = render_batch(
            seeds[worker.rank :: worker.count],
            frames,
            model_config.pretrain_width,
            model_config.pretrain_height,
            device=device,
            motion=training_motion(most_motion),
        )
        return batch.images, batch.depth_m, batch.camera_from_world, batch.intrinsics

    return render


def _validation_batches(model_config: VGGTConfig, config: TrainConfig) -> Iterator[WindowBatch]:
    last = min(VALIDATION_SEED + config.validation_windows, TEST_SEEDS_FROM)
    for start in range(VALIDATION_SEED, last, SYNTHETIC_BATCH):
        batch = render_batch(
            range(start, min(start + SYNTHETIC_BATCH, last)),
            VALIDATION_FRAMES,
            model_config.pretrain_width,
            model_config.pretrain_height,
            motion=WINDOW_MOTION,
        )
        yield WindowBatch(
            images=batch.images.numpy(),
            camera_from_world=batch.camera_from_world.double().numpy(),
            depth=batch.depth_m.numpy(),
        )


def _counters(progress: Progress) -> dict[str, float]:
    return {
        'step': progress.step,
        'windows': progress.windows,
        'minutes': round(progress.seconds / 60, 3),
    }


def _line(progress: Progress, means: dict[str, float]) -> str:
    shown = ('camera', 'depth', 'matching', 'flow', 'flow_patches', 'draw_ms', 'step_ms')
    values = ' '.join(f'{name} {means[name]:.3f}' for name in shown if name in means)
    return f'{progress.windows} windows  {values}'


def _append(path: Path, entry: dict[str, object]) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open('a') as file:
            file.write(json.dumps(entry) + '\n')
    except OSError as error:
        raise CheckpointError(f'{path}: cannot be written: {error.strerror}') from error
