# Copyright 2026 qvggt_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""What TensorRT is given computes what the bundle's graph computes, in the types that it says."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from small_networks import small_bundle

from qvggt_ros.engine.manifest import GRAPHS
from qvggt_ros.errors import UsageError
from qvggt_ros.export.tensorrt_graph import GraphTypes, rewrite_graph

DEMO = Path(__file__).parent.parent / 'engines' / 'demo'
Arrays = dict[str, np.ndarray]


def run(path: Path, feeds: Arrays) -> list[np.ndarray]:
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.intra_op_num_threads = 1
    return list(onnxruntime.InferenceSession(str(path), options).run(None, feeds))


def inputs_of(bundle: Path) -> dict[str, Arrays]:
    """Return what each graph is given on the bundle's first golden window."""
    images = np.load(bundle / 'golden.npz')['images'][0]
    network_images = images.astype(np.float32).transpose(0, 3, 1, 2) / 255
    (tokens,) = run(bundle / 'encoder.onnx', {'images': network_images})
    taps = run(bundle / 'window.onnx', {'tokens': tokens})[1:]
    return {
        'encoder': {'images': network_images},
        'window': {'tokens': tokens},
        'depth': {f'tap_{k}': tap for k, tap in enumerate(taps)},
    }


def relative_errors(found: list[np.ndarray], wanted: list[np.ndarray]) -> list[float]:
    return [
        float(np.linalg.norm(one - other) / np.linalg.norm(other))
        for one, other in zip(found, wanted, strict=True)
    ]


@pytest.mark.slow
@pytest.mark.parametrize('attention', ['operator', 'pattern'])
def test_a_float_graph_stays_the_same_function(tmp_path: Path, attention: str) -> None:
    feeds = inputs_of(small_bundle())
    for name in GRAPHS:
        rewrite_graph(
            small_bundle() / f'{name}.onnx',
            tmp_path / 'new.onnx',
            GraphTypes('float32', attention),
        )
        wanted = run(small_bundle() / f'{name}.onnx', feeds[name])
        assert max(relative_errors(run(tmp_path / 'new.onnx', feeds[name]), wanted)) < 2e-6


@pytest.mark.slow
def test_a_quantised_graph_stays_the_same_function(tmp_path: Path) -> None:
    """Up to numbers that lie on the edge between two integers: some rows get other neighbours."""
    feeds = inputs_of(DEMO)
    for name in GRAPHS:
        rewrite_graph(DEMO / f'{name}.onnx', tmp_path / 'new.onnx', GraphTypes('float32'))
        wanted = run(DEMO / f'{name}.onnx', feeds[name])
        assert max(relative_errors(run(tmp_path / 'new.onnx', feeds[name]), wanted)) < 0.03


@pytest.mark.slow
@pytest.mark.parametrize(('products', 'allowed'), [('float16', 0.06), ('bfloat16', 0.3)])
def test_half_types_stay_near(tmp_path: Path, products: str, allowed: float) -> None:
    feeds = inputs_of(DEMO)
    for name in GRAPHS:
        rewrite_graph(DEMO / f'{name}.onnx', tmp_path / 'new.onnx', GraphTypes(products))
        model = onnx.load(tmp_path / 'new.onnx')
        if products == 'float16':  # ONNX Runtime has no products of bfloat16 on a CPU
            wanted = run(DEMO / f'{name}.onnx', feeds[name])
            assert max(relative_errors(run(tmp_path / 'new.onnx', feeds[name]), wanted)) < allowed
        assert_types(model, products)


def assert_types(model: onnx.ModelProto, products: str) -> None:
    """Hold that products are of the half type, but for the camera head, and norms are not."""
    half = {'float16': onnx.TensorProto.FLOAT16, 'bfloat16': onnx.TensorProto.BFLOAT16}[products]
    onnx.checker.check_model(model)
    inferred = onnx.shape_inference.infer_shapes(model, data_prop=True)
    types = {v.name: v.type.tensor_type.elem_type for v in inferred.graph.value_info}
    counts: Counter[tuple[str, bool]] = Counter()
    for node in model.graph.node:
        counts[node.op_type, types.get(node.output[0]) == half] += 1
        assert node.domain in ('', 'ai.onnx'), node
        if node.op_type in ('QuantizeLinear', 'DequantizeLinear'):
            assert len(node.input) == 2  # symmetric: TensorRT has no zero points
    assert counts['LayerNormalization', True] == 0 and counts['Exp', True] == 0
    in_half = sum(counts[kind, True] for kind in ('MatMul', 'Conv'))
    in_float = sum(counts[kind, False] for kind in ('MatMul', 'Conv'))
    assert in_half and in_half > in_float / 2


def test_an_offset_becomes_a_shift_of_input_and_output(tmp_path: Path) -> None:
    """By hand: x = [0.3, 1.0], s = 0.1, z = -5, so that x + z s = [-0.2, 0.5]."""
    helper, numpy_helper = onnx.helper, onnx.numpy_helper
    weight = np.array([[2, -3], [4, 5]], np.int8)
    constants = {
        's': np.float32(0.1),
        'z': np.int8(-5),
        'w': weight,
        'b': np.array([10, 20], np.float32),
        'ws': np.array([0.5, 0.25], np.float32),
    }
    graph = helper.make_graph(
        [
            helper.make_node('QuantizeLinear', ['x', 's', 'z'], ['q']),
            helper.make_node('DequantizeLinear', ['q', 's', 'z'], ['d']),
            helper.make_node('DequantizeLinear', ['w', 'ws'], ['wd'], axis=1),
            helper.make_node('MatMul', ['d', 'wd'], ['p']),
            helper.make_node('Add', ['p', 'b'], ['y']),
        ],
        'by_hand',
        [helper.make_tensor_value_info('x', 1, [1, 2])],
        [helper.make_tensor_value_info('y', 1, [1, 2])],
        [numpy_helper.from_array(np.asarray(v), name) for name, v in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid('', 21)], ir_version=10)
    onnx.save(model, tmp_path / 'by_hand.onnx')
    rewrite_graph(tmp_path / 'by_hand.onnx', tmp_path / 'new.onnx', GraphTypes('float32'))
    x = np.array([[0.3, 1.0]], np.float32)
    (y,) = run(tmp_path / 'new.onnx', {'x': x})
    np.testing.assert_allclose(y, x @ (weight * constants['ws']) + constants['b'], atol=1e-6)
    np.testing.assert_allclose(y, [[12.3, 21.025]], atol=1e-6)
    operators = [node.op_type for node in onnx.load(tmp_path / 'new.onnx').graph.node]
    assert operators.count('Add') == 3  # the shift, what returns it, the bias


@pytest.mark.parametrize('wrong', [{'products': 'int8'}, {'attention': 'flash'}])
def test_unknown_types_are_refused(wrong: dict[str, str]) -> None:
    with pytest.raises(UsageError, match='must be one of'):
        GraphTypes(**wrong)
