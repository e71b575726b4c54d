# Copyright 2026 qvggt_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""`qvggt block-speed`: a frame and a global block at VGGT-1B's width, in float and in int8.

The whole large network takes minutes to build; nine tenths of its time are such blocks. Weights
are random: speed does not depend on them.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from rich.console import Console
from torch import Tensor, nn

from qvggt_ros.engine.manifest import TensorInfo
from qvggt_ros.engine.onnxruntime_engine import open_graph
from qvggt_ros.errors import UsageError
from qvggt_ros.export.engine_layers import with_engine_layers
from qvggt_ros.export.golden import noise_windows
from qvggt_ros.export.onnx_export import GraphSpec, export_graph
from qvggt_ros.quantization.calibrate import QuantiseConfig, quantise
from qvggt_ros.quantization.smoothing import fold_smoothing
from qvggt_ros.vggt import VGGT, VGGTConfig
from qvggt_ros.vggt.aggregator import Aggregator

METHODS = ('rtn', 'dsfq')
WARM_UP_ROUNDS = 2
CALIBRATION_WINDOWS = 2
# Two blocks of each kind would do; the dense head, which is not run, needs four taps.
PAIRS = 4

Runner = Callable[[NDArray[np.float32]], object]


class BlockPair(nn.Module):
    """The first frame block and the first global block: tokens [s, T, D] -> [s, T, D]."""

    def __init__(self, aggregator: Aggregator, grid: tuple[int, int]) -> None:
        super().__init__()
        self.frame_block, self.global_block = (
            aggregator.frame_blocks[0],
            aggregator.global_blocks[0],
        )
        self._rope = lambda x: aggregator.rope(grid, x)

    def forward(self, tokens: Tensor) -> Tensor:
        """Relate the tokens within each frame, then those of all frames."""
        rope = self._rope(tokens)
        x = self.frame_block(tokens, rope)
        frames, count, width = x.shape
        return self.global_block(x.reshape(1, frames * count, width), rope).reshape(x.shape)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument('--width', type=int, default=1024, help='channels of a token (1024)')
    parser.add_argument('--frames', type=int, default=4, help='per window (4)')
    parser.add_argument(
        '--grid', default='25x11', metavar='WxH', help='patches of a frame (25x11: 280 tokens)'
    )
    parser.add_argument('--rounds', type=int, default=15, help='runs of each (15)')
    parser.add_argument('--threads', type=int, default=0, help='CPU threads; 0: all')
    parser.add_argument('--json', action='store_true', help='one JSON object as the last line')


def run(args: argparse.Namespace) -> int:
    """Export, time in turn, print."""
    words = args.grid.split('x')
    if len(words) != 2 or not all(word.isdecimal() and int(word) for word in words):
        raise UsageError(f'--grid {args.grid}: must be WIDTHxHEIGHT in patches, like 25x11')
    if args.rounds < 1 or args.frames < 1 or args.width < 64 or args.width % 64:
        raise UsageError('--rounds and --frames must be positive, --width a multiple of 64')
    grid = (int(words[1]), int(words[0]))
    threads = args.threads or len(os.sched_getaffinity(0))
    with tempfile.TemporaryDirectory() as folder:
        runners = _runners(args.width, grid, threads, Path(folder))
    tokens = grid[0] * grid[1] + 5
    x = np.random.default_rng(0).standard_normal((args.frames, tokens, args.width), np.float32)
    seconds = timed(runners, x, args.rounds)
    report = report_of(seconds, args.frames, tokens, args.width)
    _print(report)
    if args.json:
        print(json.dumps(report))
    return 0


def timed(
    runners: dict[str, Runner], x: NDArray[np.float32], rounds: int
) -> dict[str, list[float]]:
    """Run all in turn, so that a ratio compares the same moments; first rounds do not count."""
    seconds: dict[str, list[float]] = {name: [] for name in runners}
    for index in range(WARM_UP_ROUNDS + rounds):
        for name, runner in runners.items():
            begin = time.perf_counter()
            runner(x)
            if index >= WARM_UP_ROUNDS:
                seconds[name].append(time.perf_counter() - begin)
    return seconds


def _runners(width: int, grid: tuple[int, int], threads: int, folder: Path) -> dict[str, Runner]:
    """Return PyTorch in float32, and ONNX Runtime in float32 and in int8 by each method."""
    torch.manual_seed(0)
    torch.set_num_threads(threads)
    config = VGGTConfig(
        pretrain_height=14 * grid[0],
        pretrain_width=14 * grid[1],
        width=width,
        heads=width // 64,
        encoder_depth=0,
        aggregator_depth=PAIRS,
        taps=(0, 1, 2, 3),
        camera_depth=0,
        camera_heads=1,
        dpt_features=8,
        dpt_channels=(8, 8, 8, 8),
        layer_scale_init=0.3,
        point_head=False,
        track_head=False,
    )
    model = VGGT(config).eval()
    size = (config.pretrain_height, config.pretrain_width)
    windows = noise_windows(CALIBRATION_WINDOWS, 2, size, 0)
    pair = BlockPair(model.aggregator, grid)

    @torch.inference_mode()
    def pytorch(x: NDArray[np.float32]) -> object:
        return pair(torch.from_numpy(x))

    runners: dict[str, Runner] = {'PyTorch float32': pytorch}
    runners['ONNX Runtime float32'] = _exported(pair, 'float32', width, grid, threads, folder)
    for method in METHODS:
        found = quantise(model, windows, 'w8a8', method, QuantiseConfig(learn=None))
        fold_smoothing(found.model)
        layers = BlockPair(with_engine_layers(found.model).aggregator, grid)
        runners[f'ONNX Runtime w8a8 {method}'] = _exported(
            layers, method, width, grid, threads, folder
        )
    return runners


def _exported(
    pair: BlockPair, name: str, width: int, grid: tuple[int, int], threads: int, folder: Path
) -> Runner:
    """Export one pair of blocks and return what runs it."""
    shape = ('frames', grid[0] * grid[1] + 5, width)
    spec = GraphSpec(
        'pair',
        pair,
        (torch.randn(3, *shape[1:]),),
        (TensorInfo('tokens', 'float32', shape, 'feature'),),
        (TensorInfo('related', 'float32', shape, 'feature'),),
    )
    path = folder / f'{name}.onnx'
    export_graph(spec, path)
    session = open_graph(path, threads)
    return lambda x: session.run(None, {'tokens': x})


def report_of(
    seconds: dict[str, list[float]], frames: int, tokens: int, width: int
) -> dict[str, object]:
    """Return medians in ms, and for every two the median ratio over the rounds."""
    names = list(seconds)
    return {
        'frames': frames,
        'tokens': tokens,
        'width': width,
        'p50_ms': {name: round(float(np.median(t)) * 1000, 1) for name, t in seconds.items()},
        'speedup': {
            f'{a} / {b}': round(float(np.median(np.divide(seconds[a], seconds[b]))), 3)
            for index, a in enumerate(names)
            for b in names[index + 1 :]
        },
    }


def _print(report: dict[str, object]) -> None:
    console = Console()
    console.print(
        f'a frame and a global block of width {report["width"]}, {report["frames"]} frames of '
        f'{report["tokens"]} tokens'
    )
    for heading, unit in (('p50_ms', ' ms'), ('speedup', ' times')):
        for name, value in report[heading].items():  # type: ignore[attr-defined]
            console.print(f'  {name}: {value}{unit}')
