# Copyright 2026 qvggt_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""`qvggt build`: make a bundle from a checkpoint."""

from __future__ import annotations

import argparse
import shutil
import time
from dataclasses import dataclass
from pathlib import Path

import torch
from rich.console import Console

from qvggt_ros.engine.manifest import Manifest, file_digest
from qvggt_ros.engine.tensorrt_library import LIBRARIES, load_library
from qvggt_ros.errors import CheckpointError, UsageError
from qvggt_ros.export.build_report import StepReport, print_plan, print_result
from qvggt_ros.export.bundle import BundleSource, write_bundle
from qvggt_ros.export.engine_command import add_engine_arguments, build_with_bar
from qvggt_ros.export.golden import golden_arrays, noise_windows
from qvggt_ros.export.onnx_export import SPELLINGS
from qvggt_ros.export.quantised_build import (
    QuantisedBuild,
    calibration_windows,
    check_exportable,
    quantised_network,
)
from qvggt_ros.image_size import parse_image_size
from qvggt_ros.quantization.nfds import NfdsConfig
from qvggt_ros.quantization.recipe import METHODS, PRECISIONS
from qvggt_ros.vggt import VGGT, VGGTConfig, fit_threads, load_model, read_config
from qvggt_ros.vggt.checkpoint import weights_digest

RANDOM = 'random'
DEMO_CHECKPOINT = Path('engines/demo/model.safetensors')
GOLDEN_WINDOWS = 2
GOLDEN_SEED = 0
MAX_FRAMES = 64


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
    parser.add_argument(
        '--seed', type=int, default=0, help=f'of calibration, and of "--checkpoint {RANDOM}"'
    )
    parser.add_argument('--frames', type=int, default=4, metavar='S', help='frames per window')
    parser.add_argument('--size', metavar='WxH', help='image size in pixels, e.g. 518x392')
    parser.add_argument('--precision', choices=('fp32', *PRECISIONS), default='fp32')
    parser.add_argument(
        '--method', choices=sorted(METHODS), default='dsfq', help='of quantisation (dsfq)'
    )
    parser.add_argument(
        '--calibration',
        default='synthetic',
        metavar='SOURCE',
        help='images to calibrate on: a bag (BAG#TOPIC if it has several), an image folder, or '
        'synthetic[:SEED] (rendered rooms, the default)',
    )
    parser.add_argument('--candidates', type=int, default=400, help='windows looked at (400)')
    parser.add_argument('--samples', type=int, default=40, help='windows calibrated on (40)')
    parser.add_argument(
        '--fast', action='store_true', help='leave the learned stage out: a tenth of the time'
    )
    parser.add_argument(
        '--dry-run', action='store_true', help='print how each layer would be quantised, and end'
    )
    parser.add_argument(
        '--attention',
        choices=sorted(SPELLINGS),
        default='fused',
        help="fused: ONNX Runtime's own operator; pattern: plain operators, for other runtimes",
    )
    parser.add_argument(
        '--engine',
        choices=('onnxruntime', *sorted(LIBRARIES)),
        default='onnxruntime',
        help='compile the bundle for a GPU too, as qvggt build-engine does',
    )
    add_engine_arguments(parser)
    parser.add_argument('--out', required=True, type=Path, metavar='FOLDER', help='engines/NAME')
    parser.add_argument('--json', action='store_true', help='print one JSON object as last line')


def run(args: argparse.Namespace) -> int:
    """Build the bundle; return 0, or raise the error that says why not."""
    preset = presets()[args.model]
    if not 1 <= args.frames <= MAX_FRAMES:
        raise UsageError(f'--frames {args.frames}: must be 1 to {MAX_FRAMES}')
    size = preset.size if args.size is None else parse_image_size(args.size)[::-1]
    preset.config.grid(*size)
    if args.precision != 'fp32':
        check_exportable(args.precision, args.method)
    if args.dry_run:
        print_plan(preset.config, args.precision, args.method)
        return 0
    if args.engine != 'onnxruntime':
        load_library(args.engine)  # refuse before the work, not after it
    fit_threads(preset.config)
    started = time.monotonic()
    with StepReport(Console(stderr=True)) as report:
        report.begin('network and weights')
        model, source = load_source(args.model, preset, args.checkpoint, args.seed)
        if args.precision == 'fp32':
            golden = noise_windows(GOLDEN_WINDOWS, args.frames, size, GOLDEN_SEED)
            manifest = write_bundle(model, args.out, source, golden, args.attention, report.begin)
        else:
            manifest = _quantised_bundle(args, model, source, size, report)
    if args.engine != 'onnxruntime':
        build_with_bar(args, args.out)
    print_result(args, manifest, time.monotonic() - started)
    return 0


def _quantised_bundle(
    args: argparse.Namespace,
    model: VGGT,
    source: BundleSource,
    size: tuple[int, int],
    report: StepReport,
) -> Manifest:
    """Choose windows, quantise, export; finished steps outlive an interruption."""
    if args.frames < 2:
        raise UsageError('--frames 1: calibration compares frames; give 2 or more')
    work = args.out.parent / f'.{args.out.name}.calibration'
    nfds = NfdsConfig(candidates=args.candidates, samples=args.samples, seed=args.seed)
    build = QuantisedBuild(
        args.precision,
        args.method,
        args.calibration,
        args.frames,
        size,
        nfds,
        learned=not args.fast,
        work=work,
    )
    chosen, images = calibration_windows(model, build, report.advance)
    report.note_calibration(chosen)
    report.begin('answers of the float network')
    golden = golden_arrays(model, images)
    network, quantised, _ = quantised_network(model, source, build, chosen, report.advance)
    manifest = write_bundle(
        network, args.out, source, golden, args.attention, report.begin, quantised
    )
    shutil.rmtree(work, ignore_errors=True)
    return manifest


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
