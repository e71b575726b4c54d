# Copyright 2026 qvggt_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""`qvggt plan`: predicted latency and memory of a bundle on a device that is not at hand."""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping
from pathlib import Path

from rich.console import Console
from rich.table import Table

from qvggt_ros.evaluation.cpu_rates import measure_cpu
from qvggt_ros.evaluation.devices import CPU, DEVICE_NAMES, DEVICES, Device
from qvggt_ros.evaluation.plan_source import Source, open_source
from qvggt_ros.evaluation.prediction import (
    MOST_FRAMES,
    StagePrediction,
    float_bytes,
    largest_window,
    memory_needed,
    predict,
)
from qvggt_ros.evaluation.work import KINDS, PRECISIONS

MB = 1e6
WIDTH = 120  # columns of text and tables where there is no terminal
NOT_RUN = (
    'A prediction from counted operations and bytes: nobody here has run this on a {title}. '
    'Expect a factor of two either way.'
)
RUN_HERE = (
    'A prediction from counted operations and bytes, with rates measured on this machine; '
    '`qvggt bench` measures the real thing.'
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument('bundle', type=Path, nargs='?', help='bundle to predict')
    parser.add_argument(
        '--model',
        choices=('demo', 'vggt-1b'),
        help='a network instead of a bundle: nothing needs to be built',
    )
    parser.add_argument('--device', required=True, choices=DEVICE_NAMES, help='where it would run')
    parser.add_argument('--frames', type=int, metavar='S', help="per window (the bundle's, or 4)")
    parser.add_argument('--size', metavar='WxH', help='image size in pixels, e.g. 518x392')
    parser.add_argument(
        '--precision', choices=PRECISIONS, help="what if it had this one (the bundle's, or w8a8)"
    )
    parser.add_argument('--json', action='store_true', help='one JSON object as the last line')


def run(args: argparse.Namespace) -> int:
    """Count, predict, print."""
    source = open_source(args)
    if args.device == CPU:
        device = measure_cpu(source.frames * source.tokens, source.config.width)
    else:
        device = DEVICES[args.device]
    float_bytes(device, source.precision)
    stages = predict(source.count(source.frames), device, source.precision)
    largest = largest_window(source.count, device, source.precision)
    report = report_of(source, device, stages, largest)
    console = Console(width=None if Console().is_terminal else WIDTH, highlight=False)
    console.print(_stage_table(source, device, stages))
    console.print(_memory_table(report))
    for sentence in _sentences(source, device, largest):
        console.print(sentence, markup=False)
    if args.json:
        print(json.dumps(report))
    return 0


def report_of(
    source: Source, device: Device, stages: Mapping[str, StagePrediction], largest: int
) -> dict[str, object]:
    """Return the report; every number in it is predicted."""
    needed = memory_needed(stages, device)
    return {
        'prediction': True,
        'note': _note(device),
        'name': source.name,
        'counted': source.counted,
        'precision': source.precision,
        'frames': source.frames,
        'height': source.size[0],
        'width': source.size[1],
        'device': _device_report(device),
        'stages': {name: _stage_report(stage) for name, stage in stages.items()}
        | {'total': {'ms': round(1e3 * sum(stage.total for stage in stages.values()), 3)}},
        'memory': {
            'weights_mb': _mb(sum(stage.weights for stage in stages.values())),
            'activations_mb': _mb(sum(stage.activations for stage in stages.values())),
            'engine_mb': _mb(device.overhead),
            'needed_mb': _mb(needed),
            'reserve_mb': _mb(device.reserve),
            'device_mb': _mb(device.memory),
            'fits': needed + device.reserve <= device.memory,
        },
        'largest_window': largest,
    }


def _note(device: Device) -> str:
    return RUN_HERE if device.measured else NOT_RUN.format(title=device.title.partition(',')[0])


def _mb(count: float) -> float:
    return round(count / MB, 3)


def _device_report(device: Device) -> dict[str, object]:
    return {
        'name': device.name,
        'title': device.title,
        'peak_tera_operations': {name: rate / 1e12 for name, rate in device.rates.items()},
        'bandwidth_gb_s': device.bandwidth / 1e9,
        'compute_efficiency': device.compute_efficiency,
        'memory_efficiency': device.memory_efficiency,
        'efficiency_source': device.efficiency_source,
    }


def _stage_report(stage: StagePrediction) -> dict[str, object]:
    return {
        'ms': round(1e3 * stage.total, 3),
        'ms_by_kind': {kind: round(1e3 * stage.seconds[kind], 3) for kind in KINDS},
        'ms_memory_bound': round(1e3 * stage.memory_bound, 3),
        'giga_operations': round(stage.operations / 1e9, 3),
        'moved_mb': _mb(stage.moved),
        'weights_mb': _mb(stage.weights),
        'activations_mb': _mb(stage.activations),
    }


def _stage_table(source: Source, device: Device, stages: Mapping[str, StagePrediction]) -> Table:
    height, width = source.size
    table = Table(
        title=f'PREDICTION: {source.name}, {source.precision}, {source.frames} frames of '
        f'{width}x{height}, on {device.title}'
    )
    table.add_column('stage')
    for heading in ('ms', *KINDS, 'Gop', 'MB moved', 'weights, MB', 'activations, MB'):
        table.add_column(heading, justify='right')
    for name, stage in stages.items():
        table.add_row(name, *_row([stage]))
    table.add_section()
    table.add_row('total', *_row(list(stages.values())))
    return table


def _row(stages: list[StagePrediction]) -> list[str]:
    """Return the sums over some stages, as they are printed."""
    milliseconds = [1e3 * sum(stage.total for stage in stages)]
    milliseconds += [1e3 * sum(stage.seconds[kind] for stage in stages) for kind in KINDS]
    sizes = (
        sum(stage.operations for stage in stages) / 1e9,
        sum(stage.moved for stage in stages) / MB,
        sum(stage.weights for stage in stages) / MB,
        sum(stage.activations for stage in stages) / MB,
    )
    return [*(f'{value:.1f}' for value in milliseconds), *(f'{value:,.0f}' for value in sizes)]


def _memory_table(report: Mapping[str, object]) -> Table:
    memory: dict[str, float] = report['memory']  # type: ignore[assignment]
    table = Table(title='memory, MB (prediction)')
    rows = {
        'weights': 'weights_mb',
        'activations': 'activations_mb',
        'engine and process': 'engine_mb',
        'needed': 'needed_mb',
        'system reserve': 'reserve_mb',
        'device': 'device_mb',
    }
    for heading in rows:
        table.add_column(heading, justify='right')
    table.add_column('fits')
    numbers = [f'{memory[key]:,.0f}' for key in rows.values()]
    table.add_row(*numbers, 'yes' if memory['fits'] else 'NO')
    return table


def _sentences(source: Source, device: Device, largest: int) -> tuple[str, ...]:
    """Return what has to be known to read the tables."""
    more = ' or more' if largest == MOST_FRAMES else ''
    window = (
        f'The largest window that fits has {largest} frames{more}'
        if largest
        else 'Not even one frame fits'
    )
    return (
        f'{window}, with {device.reserve / 1e9:.1f} GB left to the system (an assumption).',
        f'Operations and bytes: {source.counted}; every frame is new, as in `qvggt bench`.',
        f'Efficiency: {device.efficiency_source}.',
        _note(device),
    )
