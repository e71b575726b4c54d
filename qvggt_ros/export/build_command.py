# Copyright 2026 qvggt_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""`qvggt build`: make a bundle from a checkpoint."""

from __future__ import annotations

import argparse
import hashlib
import json
import re
import time
from dataclasses import dataclass
from pathlib import Path

import torch
from rich.console import Console
from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

from qvggt_ros.engine.manifest import Manifest, file_digest
from qvggt_ros.errors import CheckpointError, UsageError
from qvggt_ros.export.bundle import BundleSource, write_bundle
from qvggt_ros.export.golden import noise_windows
from qvggt_ros.export.onnx_export import SPELLINGS
from qvggt_ros.vggt import VGGT, VGGTConfig, load_model, read_config

RANDOM = 'random'
DEMO_CHECKPOINT = Path('engines/demo/model.safetensors')
GOLDEN_WINDOWS = 2
GOLDEN_SEED = 0
MAX_FRAMES = 64
PRECISIONS = ('fp32', 'fp16', 'w8a8', 'w4a16', 'w4a8', 'w4a4')


@dataclass(frozen=True)
class ModelPreset:
    """What `--model` stands for.

    Attributes:
        config: the network's sizes; the optional heads are left out, a bundle has no use for them.
        size: image height and width in pixels, unless `--size` says otherwise.
        checkpoint: where its weights are looked for, unless `--checkpoint` says otherwise.

    """

    config: VGGTConfig
    size: tuple[int, int]
    checkpoint: Path | None


def presets() -> dict[str, ModelPreset]:
    """Return the models that can be built, by name."""
    demo = VGGTConfig.demo()
    return {
        'demo': ModelPreset(demo, (demo.pretrain_height, demo.pretrain_width), DEMO_CHECKPOINT),
        'vggt-1b': ModelPreset(
            VGGTConfig.vggt_1b(point_head=False, track_head=False), (392, 518), None
        ),
    }


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the sub-command's arguments."""
    parser.add_argument('--model', choices=sorted(presets()), default='demo', help='network')
    parser.add_argument(
        '--checkpoint',
        metavar='FILE',
        help=f'weights (.safetensors or .pt), or "{RANDOM}" for untrained ones; '
        f'for demo {DEMO_CHECKPOINT} if not given',
    )
    parser.add_argument('--seed', type=int, default=0, help=f'of "--checkpoint {RANDOM}"')
    parser.add_argument('--frames', type=int, default=4, metavar='S', help='frames per window')
    parser.add_argument('--size', metavar='WxH', help='image size in pixels, e.g. 518x392')
    parser.add_argument('--precision', choices=PRECISIONS, default='fp32')
    parser.add_argument(
        '--attention',
        choices=sorted(SPELLINGS),
        default='fused',
        help="fused: ONNX Runtime's own operator; pattern: plain operators, for other runtimes",
    )
    parser.add_argument('--out', required=True, type=Path, metavar='FOLDER', help='engines/NAME')
    parser.add_argument('--json', action='store_true', help='print one JSON object as last line')


def run(args: argparse.Namespace) -> int:
    """Build the bundle; return 0, or raise the error that says why not."""
    preset = presets()[args.model]
    if args.precision != 'fp32':
        raise UsageError(
            f'--precision {args.precision}: only fp32 can be built; the others come with the '
            'quantiser'
        )
    if not 1 <= args.frames <= MAX_FRAMES:
        raise UsageError(f'--frames {args.frames}: must be 1 to {MAX_FRAMES}')
    size = preset.size if args.size is None else parse_size(args.size)
    preset.config.grid(*size)
    started = time.monotonic()
    console = Console(stderr=True)
    with Progress(
        SpinnerColumn(), TextColumn('{task.description}'), TimeElapsedColumn(), console=console
    ) as progress:
        report = _StepReport(progress)
        report.begin('network and weights')
        model, source = load_source(args.model, preset, args.checkpoint, args.seed)
        golden = noise_windows(GOLDEN_WINDOWS, args.frames, size, GOLDEN_SEED)
        manifest = write_bundle(model, args.out, source, golden, args.attention, report.begin)
        report.end()
    _print_result(args, manifest, time.monotonic() - started)
    return 0


def parse_size(text: str) -> tuple[int, int]:
    """Return height and width of 'WxH'."""
    match = re.fullmatch(r'([1-9]\d{0,4})x([1-9]\d{0,4})', text)
    if match is None:
        raise UsageError(f'--size {text!r}: must be WIDTHxHEIGHT in pixels, e.g. 518x392')
    return int(match[2]), int(match[1])


def load_source(
    name: str, preset: ModelPreset, checkpoint: str | None, seed: int
) -> tuple[VGGT, BundleSource]:
    """Return the network to build, in evaluation mode, and where it came from."""
    if checkpoint == RANDOM:
        torch.manual_seed(seed)
        model = VGGT(preset.config).eval()
        return model, BundleSource(name, f'{RANDOM}, seed {seed}', weights_digest(model))
    path = preset.checkpoint if checkpoint is None else Path(checkpoint)
    if path is None:
        raise UsageError(f'--model {name}: give --checkpoint FILE, or "--checkpoint {RANDOM}"')
    if checkpoint is None and not path.is_file():
        raise CheckpointError(
            f'{path}: no trained {name} model here; give --checkpoint FILE, or '
            f'"--checkpoint {RANDOM}" for untrained weights'
        )
    stored = read_config(path)
    if stored is not None and stored != preset.config:
        raise CheckpointError(f'{path}: holds a network of other sizes than --model {name}')
    model = load_model(path, preset.config)
    return model.float(), BundleSource(name, path.name, file_digest(path))


def weights_digest(model: VGGT) -> str:
    """Return the SHA-256 of a network's keys and numbers, where no file stands for them."""
    digest = hashlib.sha256()
    for key, value in sorted(model.state_dict().items()):
        digest.update(key.encode())
        digest.update(memoryview(value.contiguous().numpy()).cast('B'))
    return digest.hexdigest()


class _StepReport:
    """One line per step, with its time."""

    def __init__(self, progress: Progress) -> None:
        self._progress = progress
        self._task: int | None = None

    def begin(self, step: str) -> None:
        """End the step before and show the next one."""
        self.end()
        self._task = self._progress.add_task(step, total=1)

    def end(self) -> None:
        """Mark the current step as done."""
        if self._task is not None:
            self._progress.update(self._task, completed=1)  # type: ignore[arg-type]
            self._task = None


def _print_result(args: argparse.Namespace, manifest: Manifest, seconds: float) -> None:
    """Say what was built, for people and on request for programs."""
    megabytes = sum(item.stat().st_size for item in args.out.iterdir() if item.is_file()) / 1e6
    worst = max(manifest.golden.errors.values())
    print(
        f'{args.out}: {manifest.model} {manifest.precision}, {manifest.window_frames} frames of '
        f'{manifest.image_width}x{manifest.image_height}, {megabytes:.1f} MB, '
        f'{worst:.1e} from the float network, {seconds:.0f} s'
    )
    if args.json:
        print(
            json.dumps(
                {
                    'name': manifest.name,
                    'folder': str(args.out),
                    'precision': manifest.precision,
                    'megabytes': round(megabytes, 3),
                    'seconds': round(seconds, 1),
                    'errors': manifest.golden.errors,
                }
            )
        )
