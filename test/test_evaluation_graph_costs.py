# Copyright 2026 qvggt_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Counting: what graphs do is what a hand counts, and what the network's sizes say."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper
from small_networks import SMALL, SMALL_FRAMES, SMALL_SIZE, lively, small_bundle

from qvggt_ros.engine import Manifest, read_manifest
from qvggt_ros.engine.manifest import GRAPHS
from qvggt_ros.errors import BundleError
from qvggt_ros.evaluation.graph_costs import Graph
from qvggt_ros.evaluation.network_costs import network_work
from qvggt_ros.evaluation.work import (
    Work,
    bytes_moved,
    peak_bytes,
    recast,
    tensor_widths,
    weight_bytes,
)
from qvggt_ros.export import onnx_export
from qvggt_ros.export.onnx_export import export_graph, graph_specs
from qvggt_ros.vggt import VGGT, VGGTConfig

TOKENS, WIDTH, HIDDEN = 4, 8, 16


def moved(work: Work, float_bytes: int = 4) -> float:
    widths = tensor_widths(work, float_bytes)
    return sum(bytes_moved(step, work, widths, float_bytes) for step in work.steps)


def mlp_graph(path: Path) -> Graph:
    """Write x + W2 quantised(gelu(W1 x + b)), x [frames, 4, 8], as bundles spell it."""
    constants = {
        'w1': np.ones((WIDTH, HIDDEN), np.float32),
        'b': np.ones(HIDDEN, np.float32),
        'step': np.float32(0.1),
        'zero': np.int8(0),
        'w2': np.ones((HIDDEN, WIDTH), np.int8),
        'steps': np.ones(WIDTH, np.float32),
    }
    nodes = [
        helper.make_node('MatMul', ['x', 'w1'], ['a']),
        helper.make_node('Add', ['a', 'b'], ['c']),
        helper.make_node('Gelu', ['c'], ['d']),
        helper.make_node('QuantizeLinear', ['d', 'step', 'zero'], ['e']),
        helper.make_node('DequantizeLinear', ['e', 'step', 'zero'], ['f']),
        helper.make_node('DequantizeLinear', ['w2', 'steps'], ['g'], axis=1),
        helper.make_node('MatMul', ['f', 'g'], ['h']),
        helper.make_node('Add', ['x', 'h'], ['y']),
    ]
    x, y = (
        helper.make_tensor_value_info(name, TensorProto.FLOAT, ['frames', TOKENS, WIDTH])
        for name in 'xy'
    )
    held = [numpy_helper.from_array(np.asarray(array), name) for name, array in constants.items()]
    graph = helper.make_graph(nodes, 'mlp', [x], [y], held)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid('', 21)]), path)
    return Graph(path)


@pytest.mark.parametrize('frames', [1, 3])
def test_a_small_graph_is_counted_as_by_hand(tmp_path: Path, frames: int) -> None:
    work = mlp_graph(tmp_path / 'mlp.onnx').work(frames)
    rows = frames * TOKENS
    # Bias, GELU, quantising and the residual belong to the products: two kernels.
    assert [step.kind for step in work.steps] == ['product', 'product']
    assert [step.integer for step in work.steps] == [False, True]
    assert work.operations()['product'] == 2 * (2 * rows * WIDTH * HIDDEN)
    assert weight_bytes(work, 4) == 4 * (WIDTH * HIDDEN + HIDDEN) + WIDTH * HIDDEN
    # The hidden layer is stored as int8; input and output stay, as the caller's float32.
    assert peak_bytes(work, 4) == 4 * 2 * rows * WIDTH + rows * HIDDEN
    first = 4 * (rows * WIDTH + WIDTH * HIDDEN + HIDDEN) + rows * HIDDEN
    second = rows * HIDDEN + WIDTH * HIDDEN + 4 * 2 * rows * WIDTH
    assert moved(work) == first + second


def test_other_precisions_change_bytes_and_not_operations(tmp_path: Path) -> None:
    work = mlp_graph(tmp_path / 'mlp.onnx').work(2)
    weights = {name: recast(work, name) for name in ('fp32', 'fp16', 'w8a8', 'w4a16')}
    sizes = [weight_bytes(weights[name], 4) for name in ('fp32', 'w8a8', 'w4a16')]
    assert sizes == sorted(sizes, reverse=True)
    assert weight_bytes(weights['fp16'], 2) == weight_bytes(weights['fp32'], 4) / 2
    assert len({recast(work, name).operations()['product'] for name in weights}) == 1
    assert all(step.integer for step in weights['w8a8'].steps)
    assert not any(step.integer for step in weights['w4a16'].steps)


def exported(folder: Path, attention: str) -> dict[str, Graph]:
    if attention == 'fused':
        return {name: Graph(small_bundle() / f'{name}.onnx') for name in GRAPHS}
    graphs = {}
    for spec in graph_specs(lively(SMALL), SMALL_SIZE):
        path = folder / f'{spec.name}.onnx'
        export_graph(spec, path, attention)
        graphs[spec.name] = Graph(path)
    return graphs


@pytest.mark.parametrize('attention', ['fused', pytest.param('pattern', marks=pytest.mark.slow)])
def test_sizes_and_graphs_agree(tmp_path: Path, attention: str) -> None:
    graphs = exported(tmp_path, attention)
    for frames in (1, SMALL_FRAMES, 7):
        for name, expected in network_work(SMALL, SMALL_SIZE, frames, attention).items():
            work = graphs[name].work(frames)
            assert work.operations() == expected.operations(), name
            assert weight_bytes(work, 4) == pytest.approx(weight_bytes(expected, 4), rel=0.1)
            assert moved(work) == pytest.approx(moved(expected), rel=0.08), name
            assert peak_bytes(work, 4) == pytest.approx(peak_bytes(expected, 4), rel=0.08), name


def second_products(manifest: Manifest, config: VGGTConfig, frames: int) -> int:
    with torch.device('meta'):
        model = VGGT(config)
    total = 0
    for layer in manifest.layers:
        if (layer.activation, layer.activation_bits) == ('static', 16):
            # What the first iteration adds to the tokens is a constant.
            known = layer.name.startswith('camera_head.poseLN_modulation')
            weight = model.get_submodule(layer.name).weight
            assert isinstance(weight, torch.Tensor)
            total += 2 * weight.numel() * frames * (config.camera_iterations - known)
    return total


def test_the_committed_bundle_does_what_its_sizes_say(project_dir: Path) -> None:
    folder = project_dir / 'engines' / 'demo'
    manifest = read_manifest(folder)
    config = VGGTConfig.from_dict(manifest.model_config)
    size, frames = (manifest.image_height, manifest.image_width), manifest.window_frames
    patches, width = np.prod(config.grid(*size)), config.width
    # Where rotated, tokens are turned once after the encoder, and camera tokens back.
    rotated = manifest.precision != 'fp32'
    turned = {'encoder': frames * patches * rotated, 'window': 2 * frames * rotated, 'depth': 0}
    # The camera head's inputs are multiplied twice, once for each of their two integers.
    again = {'window': second_products(manifest, config, frames)}
    for name, expected in network_work(config, size, frames).items():
        operations = Graph(folder / f'{name}.onnx').work(frames).operations()
        turns = 2 * turned[name] * width**2
        assert operations['product'] == expected.operations()['product'] + turns + again.get(
            name, 0
        )
        assert operations['attention'] == expected.operations()['attention']
        assert operations['convolution'] == expected.operations()['convolution']


def test_only_the_pattern_stores_scores() -> None:
    frames, config = 8, VGGTConfig.vggt_1b(point_head=False, track_head=False)
    fused, pattern = (
        network_work(config, (392, 518), frames, attention)['window']
        for attention in ('fused', 'pattern')
    )
    tokens = frames * (28 * 37 + 5)
    scores = 2 * config.heads * tokens**2
    assert scores == pytest.approx(2.2e9, rel=0.02)
    assert peak_bytes(fused, 2) < 0.3 * scores < scores < peak_bytes(pattern, 2)
    assert fused.operations() == pattern.operations()


def test_weights_beside_the_graph_are_not_needed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(onnx_export, 'EXTERNAL_DATA_BYTES', 0)
    spec = graph_specs(lively(SMALL), SMALL_SIZE)[0]
    data = export_graph(spec, tmp_path / 'encoder.onnx')
    assert data is not None
    data.unlink()
    counted = Graph(tmp_path / 'encoder.onnx').work(2)
    assert counted == Graph(small_bundle() / 'encoder.onnx').work(2)


def test_what_is_no_graph_is_refused(tmp_path: Path) -> None:
    path = tmp_path / 'broken.onnx'
    path.write_bytes(b'\xff' * 100)
    with pytest.raises(BundleError, match=r'broken\.onnx: cannot be read as an ONNX graph'):
        Graph(path)
    with pytest.raises(BundleError, match=r'none\.onnx: cannot be read'):
        Graph(tmp_path / 'none.onnx')
