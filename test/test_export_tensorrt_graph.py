# Copyright 2026 qvggt_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""What TensorRT is given computes what the bundle's graph computes, in the types that it says."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import onnx
import pytest
from half_engine import Arrays, half_engine, inputs_of, relative_errors, run
from small_networks import small_bundle

from qvggt_ros.engine.half_types import HALF_ROUNDING, HALF_TYPES, tolerances_in
from qvggt_ros.engine.manifest import GOLDEN_FIGURES, GRAPHS, read_manifest
from qvggt_ros.engine.self_check import golden_errors, read_golden
from qvggt_ros.errors import UsageError
from qvggt_ros.export.tensorrt_graph import GraphTypes, rewrite_graph

DEMO = Path(__file__).parent.parent / 'engines' / 'demo'


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
def test_every_shifted_product_is_the_product_with_a_zero_point(tmp_path: Path) -> None:
    """Product by product, on the numbers that it really gets: exact but for a few integers.

    Over a whole graph the few integers that fall to the other side move all that follows.
    """
    original = onnx.load(DEMO / 'window.onnx')
    rewrite_graph(DEMO / 'window.onnx', tmp_path / 'new.onnx', GraphTypes('float32'))
    rewritten = onnx.load(tmp_path / 'new.onnx')
    shifted = [
        pair for pair in quantised_products(original) if zero_point_of(original, pair[0]) != 0
    ]
    assert len(shifted) >= 10  # fc2 of every block
    feeds = inputs_of(DEMO)['window']
    given = values(original, tmp_path, [pair[0].input[0] for pair in shifted], feeds)
    off, total = 0, 0
    for x, (quantise, product) in zip(given, shifted, strict=True):
        wanted = one_product(original, tmp_path, quantise.input[0], product.output[0], x)
        end = next(
            node.output[0]
            for node in rewritten.graph.node
            if node.op_type == 'Add' and node.input[0] == product.output[0]
        )
        found = one_product(rewritten, tmp_path, quantise.input[0], end, x)
        # A token one of whose integers fell to the other side is off by a step's worth.
        tokens = np.abs(found - wanted).max(axis=-1) > 2e-5 * np.abs(wanted).max()
        off, total = off + int(tokens.sum()), total + tokens.size
        assert np.linalg.norm(found - wanted) < 1e-3 * np.linalg.norm(wanted)
    print(f'{off} of {total} tokens have an integer on the other side')
    assert off < 0.02 * total


def quantised_products(model: onnx.ModelProto) -> list[tuple[onnx.NodeProto, onnx.NodeProto]]:
    """Return the quantiser of each product's input, and the product."""
    makers = {name: node for node in model.graph.node for name in node.output}
    found = []
    for node in model.graph.node:
        dequantise = makers.get(node.input[0]) if node.op_type == 'MatMul' else None
        quantise = makers.get(dequantise.input[0]) if dequantise is not None else None
        if quantise is not None and quantise.op_type == 'QuantizeLinear':
            found.append((quantise, node))
    return found


def zero_point_of(model: onnx.ModelProto, quantise: onnx.NodeProto) -> int:
    (zero,) = (t for t in model.graph.initializer if t.name == quantise.input[2])
    return int(onnx.numpy_helper.to_array(zero))


def values(
    model: onnx.ModelProto, work: Path, names: list[str], feeds: Arrays
) -> list[np.ndarray]:
    """Return values inside a graph."""
    shown = onnx.ModelProto()
    shown.CopyFrom(model)
    del shown.graph.output[:]
    for name in names:
        shown.graph.output.add(name=name).type.tensor_type.elem_type = onnx.TensorProto.FLOAT
    onnx.save(shown, work / 'shown.onnx')
    return run(work / 'shown.onnx', feeds)


def one_product(
    model: onnx.ModelProto, work: Path, begin: str, end: str, x: np.ndarray
) -> np.ndarray:
    """Run what lies between two values of a graph."""
    nodes, wanted = [], {end}
    for node in reversed(model.graph.node):
        if wanted & set(node.output):
            nodes.append(node)
            wanted |= {name for name in node.input if name != begin}
    floats = onnx.TensorProto.FLOAT
    graph = onnx.helper.make_graph(
        nodes[::-1],
        'part',
        [onnx.helper.make_tensor_value_info(begin, floats, x.shape)],
        [onnx.helper.make_tensor_value_info(end, floats, None)],
        [tensor for tensor in model.graph.initializer if tensor.name in wanted],
    )
    part = onnx.helper.make_model(
        graph, opset_imports=model.opset_import, ir_version=model.ir_version
    )
    onnx.save(part, work / 'part.onnx')
    (found,) = run(work / 'part.onnx', {begin: x})
    return found


@pytest.mark.slow
@pytest.mark.parametrize('attention', ['operator', 'pattern'])
@pytest.mark.parametrize('half_type', HALF_TYPES)
def test_half_types_stay_within_what_engines_are_allowed(
    tmp_path: Path, half_type: str, attention: str
) -> None:
    """With the rounding that the graphs ask for, on the golden windows of the demo."""
    manifest = read_manifest(DEMO)
    engine = half_engine(DEMO, tmp_path, GraphTypes(half_type, attention))
    allowed = tolerances_in(half_type, manifest.golden)
    errors = golden_errors(engine, read_golden(DEMO, manifest))
    assert all(error < allowed[figure] for figure, error in errors.items()), errors
    for name in GRAPHS:
        assert_types(onnx.load(tmp_path / f'{name}.rewritten.onnx'), half_type)


@pytest.mark.slow
def test_engines_are_allowed_twice_what_rounding_does_and_no_more_than_a_hundredth_or_so(
    tmp_path: Path,
) -> None:
    """On a float network with random weights, which rounding moves more than a trained one."""
    golden = read_golden(small_bundle(), read_manifest(small_bundle()))
    figures = {}
    for half_type in HALF_TYPES:
        engine = half_engine(small_bundle(), tmp_path, GraphTypes(half_type))
        figures[half_type] = golden_errors(engine, golden)
        print(half_type, {name: f'{error:.2g}' for name, error in figures[half_type].items()})
        for figure, error in figures[half_type].items():
            assert 2 * error < HALF_ROUNDING[half_type][figure] <= 0.04
    for figure in GOLDEN_FIGURES:
        # bfloat16 has three digits less, of two.
        assert 3 < figures['bfloat16'][figure] / figures['float16'][figure] < 20


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
