# Copyright 2026 qvggt_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Convolutions' 8-bit weights, unpacked once in memory."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from numpy.typing import NDArray
from onnx import ModelProto, TensorProto, helper, numpy_helper

from qvggt_ros.engine.onnxruntime_engine import open_graph
from qvggt_ros.engine.unpacked_weights import with_unpacked_convolutions

CHANNELS, SIZE = 6, 5
ANY_SHAPE = ['a', 'b', 'c', 'd']


@dataclass(frozen=True)
class Case:
    """A graph of one convolution whose weight is unpacked along one axis."""

    operator: str = 'Conv'
    axis: int = 0
    per_channel: bool = True
    also: str = ''  # who else reads: 'weight' or 'unpacked'
    external: bool = False


def save_graph(path: Path, case: Case) -> NDArray[np.float32]:
    """Write the graph; return the weight that it means."""
    rng = np.random.default_rng(3)
    weight = rng.integers(-127, 128, (CHANNELS, CHANNELS, 3, 3)).astype(np.int8)
    step = rng.uniform(0.001, 0.01, CHANNELS if case.per_channel else ()).astype(np.float32)
    attributes: dict[str, Any] = {'axis': case.axis} if case.per_channel else {}
    nodes = [
        helper.make_node('DequantizeLinear', ['w', 'step'], ['w_float'], **attributes),
        helper.make_node(case.operator, ['x', 'w_float'], ['y']),
    ]
    outputs = [helper.make_tensor_value_info('y', TensorProto.FLOAT, ANY_SHAPE)]
    if case.also == 'weight':
        nodes.append(helper.make_node('Cast', ['w'], ['z'], to=TensorProto.FLOAT))
    elif case.also == 'unpacked':
        nodes.append(helper.make_node('Abs', ['w_float'], ['z']))
    if case.also:
        outputs.append(helper.make_tensor_value_info('z', TensorProto.FLOAT, ANY_SHAPE))
    graph = helper.make_graph(
        nodes,
        'convolution',
        [helper.make_tensor_value_info('x', TensorProto.FLOAT, [1, CHANNELS, SIZE, SIZE])],
        outputs,
        [numpy_helper.from_array(weight, 'w'), numpy_helper.from_array(step, 'step')],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid('', 21)], ir_version=10)
    onnx.save_model(
        model,
        path,
        save_as_external_data=case.external,
        location=f'{path.name}.data',
        size_threshold=0,
    )
    if step.ndim:
        step = np.moveaxis(np.broadcast_to(step, (CHANNELS, 3, 3, CHANNELS)), -1, case.axis)
    return weight.astype(np.float32) * step


def unpacked(path: Path) -> ModelProto | None:
    """Return the graph as it is run, None if it is run as it was written."""
    data = with_unpacked_convolutions(path.read_bytes(), path.parent)
    return None if data is None else onnx.load_from_string(data)


@pytest.mark.parametrize(
    'case',
    [
        Case(),
        Case(axis=1, operator='ConvTranspose'),
        Case(axis=-3, operator='ConvTranspose'),
        Case(per_channel=False),
        Case(external=True),
        Case(also='weight'),
    ],
    ids=str,
)
def test_a_convolution_reads_the_numbers_that_its_packed_weight_meant(
    tmp_path: Path, case: Case
) -> None:
    path = tmp_path / 'graph.onnx'
    wanted = save_graph(path, case)
    model = unpacked(path)
    assert model is not None
    if not case.external:
        onnx.checker.check_model(model)
    tensors = {tensor.name: tensor for tensor in model.graph.initializer}
    assert np.array_equal(numpy_helper.to_array(tensors['w_float']), wanted)
    assert ('w' in tensors) == (case.also == 'weight')
    assert 'DequantizeLinear' not in {node.op_type for node in model.graph.node}

    x = np.random.default_rng(4).normal(size=(1, CHANNELS, SIZE, SIZE)).astype(np.float32)
    plain = onnxruntime.InferenceSession(path, providers=['CPUExecutionProvider'])
    for ours, theirs in zip(
        open_graph(path, 1).run(None, {'x': x}), plain.run(None, {'x': x}), strict=True
    ):
        assert np.abs(ours - theirs).max() <= 1e-5 * np.abs(theirs).max()


def test_what_others_read_too_stays_packed(tmp_path: Path) -> None:
    path = tmp_path / 'graph.onnx'
    save_graph(path, Case(also='unpacked'))
    assert unpacked(path) is None


def test_weights_of_products_stay_packed(tmp_path: Path) -> None:
    """They are multiplied as whole numbers."""
    path = tmp_path / 'graph.onnx'
    save_graph(path, Case(operator='MatMul', per_channel=False))
    assert unpacked(path) is None


def test_a_weight_of_another_size_than_its_shape_says_is_refused(tmp_path: Path) -> None:
    path = tmp_path / 'graph.onnx'
    save_graph(path, Case())
    model = onnx.load(path)
    model.graph.initializer[0].dims[0] += 1
    onnx.save_model(model, path)
    with pytest.raises(ValueError, match=r'w has 324 numbers, its shape is \[7, 6, 3, 3\]'):
        unpacked(path)
