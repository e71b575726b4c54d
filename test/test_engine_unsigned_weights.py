# Copyright 2026 qvggt_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""8-bit products on processors without VNNI instructions: the weights made unsigned in memory."""

from __future__ import annotations

import platform
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from qvggt_ros.engine import onnxruntime_engine
from qvggt_ros.engine.onnxruntime_engine import open_graph
from qvggt_ros.engine.unsigned_weights import products_overflow, with_unsigned_weights
from qvggt_ros.errors import EngineError

ROWS, INNER, COLUMNS = 12, 64, 24
STEP = np.float32(1 / 64)


def weights_of(kind: str) -> NDArray[np.int8]:
    """Return weights that overflow 16 bits in pairs, or random ones."""
    if kind == 'largest':
        return np.full((INNER, COLUMNS), 127, np.int8)
    return np.random.default_rng(0).integers(-127, 128, (INNER, COLUMNS)).astype(np.int8)


def save_graph(path: Path, weights: NDArray[np.int8], external: bool = False) -> None:
    """Write x -> (x W, 2 x W) on 8 bits, both products with the same weights."""
    steps = np.linspace(0.5, 1.5, COLUMNS).astype(np.float32) * STEP
    constants = [
        numpy_helper.from_array(weights, 'w'),
        numpy_helper.from_array(steps, 'steps'),
        numpy_helper.from_array(np.array(STEP), 'step'),
        numpy_helper.from_array(np.array(0, np.int8), 'zero'),
        numpy_helper.from_array(np.array(2, np.float32), 'two'),
    ]
    nodes = [helper.make_node('Mul', ['x', 'two'], ['x2'])]
    for name in ('x', 'x2'):
        nodes += [
            helper.make_node('QuantizeLinear', [name, 'step', 'zero'], [f'{name}_q']),
            helper.make_node('DequantizeLinear', [f'{name}_q', 'step', 'zero'], [f'{name}_d']),
            helper.make_node('DequantizeLinear', ['w', 'steps'], [f'{name}_w'], axis=1),
            helper.make_node('MatMul', [f'{name}_d', f'{name}_w'], [f'{name}_y']),
        ]
    graph = helper.make_graph(
        nodes,
        'products',
        [helper.make_tensor_value_info('x', TensorProto.FLOAT, [ROWS, INNER])],
        [
            helper.make_tensor_value_info(f'{name}_y', TensorProto.FLOAT, [ROWS, COLUMNS])
            for name in ('x', 'x2')
        ],
        constants,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid('', 21)], ir_version=10)
    onnx.save_model(
        model,
        path,
        save_as_external_data=external,
        location=f'{path.name}.data',
        size_threshold=0,
    )


def reference(x: NDArray[np.float32], weights: NDArray[np.int8]) -> list[NDArray[np.float64]]:
    """Return both products in whole numbers, scaled at the end."""
    steps = (np.linspace(0.5, 1.5, COLUMNS).astype(np.float32) * STEP).astype(np.float64)
    found = []
    for factor in (1, 2):
        integers = np.clip(np.rint(x * factor / STEP), -128, 127).astype(np.int64)
        found.append(integers @ weights.astype(np.int64) * float(STEP) * steps)
    return found


def inputs_of(kind: str) -> NDArray[np.float32]:
    """Return inputs at the top of the range, or random ones."""
    if kind == 'largest':
        return np.full((ROWS, INNER), 127 * STEP, np.float32)
    return np.random.default_rng(1).normal(0, 0.7, (ROWS, INNER)).astype(np.float32)


@pytest.mark.parametrize('external', [False, True])
@pytest.mark.parametrize('kind', ['random', 'largest'])
def test_unsigned_weights_multiply_exactly(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str, external: bool
) -> None:
    path = tmp_path / 'graph.onnx'
    save_graph(path, weights_of(kind), external)
    monkeypatch.setattr(onnxruntime_engine, 'products_overflow', lambda: True)
    x = inputs_of(kind)
    for found, wanted in zip(
        open_graph(path, 1).run(None, {'x': x}), reference(x, weights_of(kind)), strict=True
    ):
        assert np.abs(found - wanted).max() <= 1e-6 * np.abs(wanted).max()


def test_this_processor_multiplies_exactly_as_graphs_are_opened(tmp_path: Path) -> None:
    path = tmp_path / 'graph.onnx'
    for kind in ('random', 'largest'):
        save_graph(path, weights_of(kind))
        x = inputs_of(kind)
        found = open_graph(path, 1).run(None, {'x': x})[0]
        assert np.allclose(found, reference(x, weights_of(kind))[0], rtol=1e-5, atol=1e-5)


def test_what_is_guarded_against_is_what_this_processor_does(tmp_path: Path) -> None:
    """The flags and the runtime agree: a plain session is wrong exactly where they say so."""
    path = tmp_path / 'graph.onnx'
    save_graph(path, weights_of('largest'))
    x = inputs_of('largest')
    session = onnxruntime.InferenceSession(path, providers=['CPUExecutionProvider'])
    found, wanted = session.run(None, {'x': x})[0], reference(x, weights_of('largest'))[0]
    wrong = np.abs(found - wanted).max() > 0.01 * np.abs(wanted).max()
    assert wrong == products_overflow()


def test_the_graph_says_the_same_with_128_as_zero_point(tmp_path: Path) -> None:
    path = tmp_path / 'graph.onnx'
    weights = weights_of('random')
    save_graph(path, weights)
    found = with_unsigned_weights(path.read_bytes(), tmp_path)
    assert found is not None and found.external == {}
    model = onnx.load_from_string(found.model)
    onnx.checker.check_model(model, full_check=True)
    arrays = {t.name: numpy_helper.to_array(t) for t in model.graph.initializer}
    assert arrays['w'].dtype == np.uint8
    assert np.array_equal(arrays['w'].astype(int) - 128, weights)
    assert arrays['steps.zero_point_128'].shape == (COLUMNS,)
    assert arrays['zero'].dtype == np.int8  # of inputs: they stay as they are
    read = [list(n.input) for n in model.graph.node if n.op_type == 'DequantizeLinear']
    assert read.count(['w', 'steps', 'steps.zero_point_128']) == 2


def test_a_graph_without_such_weights_is_left_to_the_runtime(tmp_path: Path) -> None:
    graph = helper.make_graph(
        [helper.make_node('Identity', ['x'], ['y'])],
        'nothing',
        [helper.make_tensor_value_info('x', TensorProto.FLOAT, [1])],
        [helper.make_tensor_value_info('y', TensorProto.FLOAT, [1])],
    )
    path = tmp_path / 'graph.onnx'
    onnx.save_model(helper.make_model(graph), path)
    assert with_unsigned_weights(path.read_bytes(), tmp_path) is None


@pytest.mark.parametrize('damage', ['shortened', 'empty', 'absent', 'noise'])
def test_a_damaged_graph_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, damage: str
) -> None:
    path = tmp_path / 'graph.onnx'
    save_graph(path, weights_of('random'))
    if damage == 'absent':
        path.unlink()
    else:
        data = path.read_bytes()
        path.write_bytes({'shortened': data[:-9], 'empty': b'', 'noise': b'\xff' * 99}[damage])
    monkeypatch.setattr(onnxruntime_engine, 'products_overflow', lambda: True)
    with pytest.raises(EngineError, match=r'graph\.onnx: its weights cannot be read'):
        open_graph(path)


@pytest.mark.parametrize(
    ('flags', 'overflow'),
    [
        ('fpu sse4_1 avx avx2', True),
        ('fpu avx2 avx512f avx512bw', True),
        ('fpu avx2 avx512f avx512_vnni', False),
        ('fpu avx2 avx_vnni', False),
    ],
)
def test_flags_of_a_processor_decide(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, flags: str, overflow: bool
) -> None:
    cpu_info = tmp_path / 'cpuinfo'
    cpu_info.write_text(f'processor\t: 0\nflags\t\t: {flags}\nbugs\t\t: none\n')
    monkeypatch.setattr(platform, 'machine', lambda: 'x86_64')
    assert products_overflow(cpu_info) == overflow
    assert products_overflow(tmp_path / 'absent')
    monkeypatch.setattr(platform, 'machine', lambda: 'aarch64')
    assert not products_overflow(cpu_info)
