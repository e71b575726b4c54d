# Copyright 2026 qvggt_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Measure in a few seconds what ONNX Runtime reaches on this machine's processor."""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import NodeProto, TensorProto, helper, numpy_helper

from qvggt_ros.engine.onnxruntime_engine import open_graph
from qvggt_ros.evaluation.devices import CPU, FP32, GB, INT8, Device
from qvggt_ros.evaluation.work import IO_BYTES

RUNS = 12
PAIRS = 2  # of products in one measured graph
CHAIN = 6  # pointwise steps in one measured graph
MOST_TOKENS = 512  # rows from which on rates change no more
# Share of these rates that a bundle reaches: `qvggt bench engines/demo` took 2.1 (encoder), 2.4
# (window) and 1.9 (depth) times as long as its steps at the rates measured in the same minute
# (ONNX Runtime 1.32, w8a8, two cores of an AMD EPYC that had other work). Rates are those of the
# best run, latencies are medians.
EFFICIENCY = 0.45
TINY = 8  # numbers in a tensor whose step takes no time but the runtime's own
STREAM_NUMBERS = 16_000_000  # beyond every cache: 64 MB
# Python, ONNX Runtime and a bundle's code without the bundle; measured with ONNX Runtime 1.32.
PROCESS_BYTES = 0.12 * GB
# The operating system, and a robot's other programs; an assumption.
RESERVE_BYTES = 2.0 * GB
SOURCE = (
    "rates were measured now, on products and pointwise steps of this network's width; the "
    'committed demo bundle reached 45 % of such rates on two cores of an AMD EPYC'
)

Array = NDArray[np.float32]


def measure_cpu(tokens: int, width: int) -> Device:
    """Return this machine as a device.

    Args:
        tokens: rows of the activations whose products are timed; rates depend on their size.
        width: channels of these activations.

    """
    rng = np.random.default_rng(0)
    tokens = min(tokens, MOST_TOKENS)
    x = rng.standard_normal((tokens, width), np.float32)
    hidden = 4 * width
    up, down = (
        rng.standard_normal(shape, np.float32) / np.float32(width**0.5)
        for shape in ((width, hidden), (hidden, width))
    )
    operations = 2 * 2 * tokens * width * hidden * PAIRS
    products = {
        FP32: _products(up, down, integer=False),
        INT8: _products(up, down, integer=True),
    }
    rates = {name: operations / _seconds(nodes, x) for name, nodes in products.items()}
    moved = 2 * IO_BYTES * x.size * CHAIN
    step = _seconds(_pointwise(), np.ones((1, TINY), np.float32)) / CHAIN
    return Device(
        CPU,
        f'this machine, {len(os.sched_getaffinity(0))} cores',
        rates,
        bandwidth=_copied(),
        pointwise_bandwidth=moved / _seconds(_pointwise(), x),
        memory=os.sysconf('SC_PAGE_SIZE') * os.sysconf('SC_PHYS_PAGES'),
        reserve=RESERVE_BYTES,
        overhead=PROCESS_BYTES,
        step_seconds=step,
        compute_efficiency=EFFICIENCY,
        memory_efficiency=EFFICIENCY,
        efficiency_source=SOURCE,
        has_float16=False,
        measured=True,
    )


Nodes = tuple[list[NodeProto], list[TensorProto]]


def _products(up: Array, down: Array, integer: bool) -> Nodes:
    """Return a chain that widens its input, narrows it, and so on."""
    nodes, constants, name = [], [], 'x'
    for index in range(2 * PAIRS):
        weight = up if index % 2 == 0 else down
        more, held, name = _product(name, f'p{index}', weight, integer)
        nodes += more
        constants += held
    return nodes, constants


def _product(
    x: str, name: str, weight: Array, integer: bool
) -> tuple[list[NodeProto], list[TensorProto], str]:
    """Return one product as bundles spell it, and its result's name."""
    if not integer:
        held = [numpy_helper.from_array(weight, f'{name}w')]
        return [helper.make_node('MatMul', [x, f'{name}w'], [name])], held, name
    step = np.abs(weight).max(axis=0) / 127
    held = [
        numpy_helper.from_array(np.round(weight / step).astype(np.int8), f'{name}w'),
        numpy_helper.from_array(step.astype(np.float32), f'{name}s'),
        numpy_helper.from_array(np.float32(4 / 127), f'{name}a'),
        numpy_helper.from_array(np.int8(0), f'{name}z'),
    ]
    given = [f'{name}a', f'{name}z']
    nodes = [
        helper.make_node('QuantizeLinear', [x, *given], [f'{name}q']),
        helper.make_node('DequantizeLinear', [f'{name}q', *given], [f'{name}x']),
        helper.make_node('DequantizeLinear', [f'{name}w', f'{name}s'], [f'{name}d'], axis=1),
        helper.make_node('MatMul', [f'{name}x', f'{name}d'], [name]),
    ]
    return nodes, held, name


def _pointwise() -> Nodes:
    """Return a chain of the steps between products, as they come in a block."""
    names = ['x', *(f'y{index}' for index in range(CHAIN))]
    operators = ('Gelu', 'Relu')
    nodes = [
        helper.make_node(operators[index % 2], [names[index]], [names[index + 1]])
        for index in range(CHAIN)
    ]
    return nodes, []


def _seconds(graph: Nodes, x: Array) -> float:
    """Return the shortest of some runs: other programs may take the cores meanwhile."""
    nodes, constants = graph
    values = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)
        for name, shape in (('x', list(x.shape)), (nodes[-1].output[0], None))
    ]
    model = helper.make_model(
        helper.make_graph(nodes, 'rates', values[:1], values[1:], constants),
        opset_imports=[helper.make_opsetid('', 21)],
        ir_version=10,
    )
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / 'rates.onnx'
        onnx.save(model, path)
        session = open_graph(path)
    return _shortest(lambda: session.run(None, {'x': x}))


def _copied() -> float:
    """Return the bytes per second of a copy that no cache holds, read and written."""
    source = np.ones(STREAM_NUMBERS, np.float32)
    target = np.empty_like(source)
    return 2 * source.nbytes / _shortest(lambda: np.copyto(target, source))


def _shortest(run: Callable[[], object]) -> float:
    times = []
    for _ in range(RUNS):
        began = time.perf_counter()
        run()
        times.append(time.perf_counter() - began)
    return min(times)
