# Copyright 2026 qvggt_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""What engines run is what was simulated: layer by layer, and as a whole."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from small_networks import SMALL, SMALL_FRAMES, SMALL_SIZE, lively
from torch import nn
from torch.nn import functional

from qvggt_ros.engine.manifest import TensorInfo
from qvggt_ros.engine.onnxruntime_engine import open_graph
from qvggt_ros.engine.unsigned_weights import products_overflow
from qvggt_ros.errors import UsageError
from qvggt_ros.export.engine_layers import EngineLayer, with_engine_layers
from qvggt_ros.export.golden import noise_windows
from qvggt_ros.export.onnx_export import GraphSpec, export_graph, graph_specs
from qvggt_ros.quantization.calibrate import QuantiseConfig, quantise
from qvggt_ros.quantization.layers import QuantisedLayer, Source
from qvggt_ros.quantization.recipe import LayerPlan
from qvggt_ros.quantization.smoothing import fold_smoothing
from qvggt_ros.vggt import VGGT

STATIC8 = LayerPlan('layer', 'fc1', 8, None, 'static', 8)


def session_of(module: nn.Module, x: torch.Tensor, path: Path) -> onnxruntime.InferenceSession:
    shape: tuple[int | str, ...] = ('frames', *x.shape[1:])
    with torch.no_grad():
        y = module(x)
    spec = GraphSpec(
        'layer',
        module,
        (x,),
        (TensorInfo('x', 'float32', shape, ''),),
        (TensorInfo('y', 'float32', ('frames', *y.shape[1:]), ''),),
    )
    export_graph(spec, path)
    return open_graph(path)


CASES: dict[str, tuple[Source, LayerPlan, tuple[int, ...]]] = {
    'int8': (nn.Linear(64, 24), STATIC8, (5, 7, 64)),
    'int8 with offset': (nn.Linear(64, 24), replace(STATIC8, offset=True), (5, 7, 64)),
    'int8 scaled as it comes': (nn.Linear(64, 24), replace(STATIC8, smoothing='online'), (5, 64)),
    'two int8': (nn.Linear(64, 24), replace(STATIC8, activation_bits=16), (5, 7, 64)),
    'int8 of a 1x1 convolution': (nn.Conv2d(64, 24, 1), STATIC8, (3, 64, 4, 5)),
    'int8 weights of a convolution': (
        nn.Conv2d(64, 24, 3, padding=1),
        LayerPlan('layer', 'conv', 8),
        (3, 64, 4, 5),
    ),
    'int8 weights, transposed': (
        nn.ConvTranspose2d(64, 24, 2, stride=2),
        LayerPlan('layer', 'conv', 8),
        (3, 64, 4, 5),
    ),
    'int4 in blocks': (nn.Linear(64, 24), LayerPlan('layer', 'fc1', 4, 32), (5, 7, 64)),
}


@pytest.mark.parametrize('case', CASES)
def test_a_layer_of_the_engine_equals_its_simulation(case: str, tmp_path: Path) -> None:
    source, plan, shape = CASES[case]
    torch.manual_seed(0)
    layer = QuantisedLayer(source, plan).requires_grad_(False)
    layer.enabled = True
    layer.activation_step = torch.tensor(0.02)
    layer.activation_offset = torch.tensor(40.0 if plan.offset else 0.0)
    if plan.smoothing == 'online':
        layer.smooth = torch.linspace(0.5, 2, 64)
    x = torch.randn(shape)
    session = session_of(EngineLayer(layer), torch.randn(3, *shape[1:]), tmp_path / 'layer.onnx')
    found = session.run(None, {'x': x.numpy()})[0]
    wanted = layer(x).numpy()
    # Integers are the same, so that only the order of the float additions differs; half a step of
    # one input is the bound that any engine has to keep.
    half_step = 0.01 * float(layer.quantised_weight().abs().max())
    bound = half_step if plan.activation == 'static' else 1e-4
    assert np.abs(found - wanted).max() < min(bound, 1e-3)


def test_two_integers_are_multiplied_as_integers(tmp_path: Path) -> None:
    """Both parts become one integer product in the runtime, which keeps 16 bits of the input."""
    torch.manual_seed(0)
    plan = replace(STATIC8, activation_bits=16)
    layer = QuantisedLayer(nn.Linear(64, 24), plan).requires_grad_(False)
    layer.activation_step = torch.tensor(4 / 127)
    x = torch.randn(5, 64)
    path = tmp_path / 'layer.onnx'
    session_of(EngineLayer(layer), x, path)
    options = onnxruntime.SessionOptions()
    options.optimized_model_filepath = str(tmp_path / 'optimised.onnx')
    session = onnxruntime.InferenceSession(path, options, providers=['CPUExecutionProvider'])
    operators = [n.op_type for n in onnx.load(options.optimized_model_filepath).graph.node]
    assert operators.count('MatMulIntegerToFloat') == 1 and 'MatMul' not in operators
    wanted = functional.linear(x, layer.quantised_weight(), layer.bias).numpy()
    if not products_overflow():
        assert np.abs(session.run(None, {'x': x.numpy()})[0] - wanted).max() < 2e-4
    found = open_graph(path).run(None, {'x': x.numpy()})[0]
    assert np.abs(found - wanted).max() < 2e-4  # one integer part alone: 0.02


def quantised(precision: str) -> VGGT:
    windows = noise_windows(3, SMALL_FRAMES, SMALL_SIZE, seed=2)
    found = quantise(lively(SMALL), windows, precision, 'dsfq', QuantiseConfig(learn=None))
    fold_smoothing(found.model)
    return found.model


@pytest.fixture(scope='module', params=['w8a8', 'w4a16'])
def exported(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> tuple[str, VGGT, Path]:
    folder = tmp_path_factory.mktemp(request.param)
    model = quantised(request.param)
    for spec in graph_specs(with_engine_layers(model), SMALL_SIZE):
        export_graph(spec, folder / f'{spec.name}.onnx')
    return request.param, model, folder


def run_graphs(folder: Path, images: torch.Tensor) -> np.ndarray:
    sessions = {
        name: open_graph(folder / f'{name}.onnx') for name in ('encoder', 'window', 'depth')
    }
    (tokens,) = sessions['encoder'].run(None, {'images': images.numpy()})
    pose_enc, *taps = sessions['window'].run(None, {'tokens': tokens})
    depth, _ = sessions['depth'].run(None, {f'tap_{k}': tap for k, tap in enumerate(taps)})
    return np.concatenate([pose_enc.ravel(), np.log(depth).ravel()])


@torch.inference_mode()
def answers(model: VGGT, images: torch.Tensor) -> np.ndarray:
    out = model(images[None])
    pose, depth = out['pose_enc'], out['depth']
    return np.concatenate([pose.numpy().ravel(), depth.log().numpy().ravel()])


@pytest.mark.slow
def test_the_graphs_equal_the_simulation_within_float_noise(
    exported: tuple[str, VGGT, Path],
) -> None:
    # Rounding turns the last bit of a float into a step now and then, whoever computes it: the
    # simulation in float64 is as far from the one in float32. That is the noise to compare with.
    precision, model, folder = exported
    images = torch.from_numpy(noise_windows(1, 3, SMALL_SIZE, seed=9)[0])
    images = images.permute(0, 3, 1, 2).float() / 255
    wanted = answers(model, images)
    exact = answers(quantised(precision).double(), images.double())
    noise = np.abs(exact - wanted).max()
    difference = np.abs(run_graphs(folder, images) - wanted).max()
    quantisation = np.abs(answers(lively(SMALL), images) - wanted).max()
    assert difference < 3 * noise + 1e-4
    assert difference < quantisation


@pytest.mark.slow
def test_graphs_hold_standard_operators_and_integer_weights(
    exported: tuple[str, VGGT, Path],
) -> None:
    precision, _, folder = exported
    model = onnx.load(folder / 'window.onnx')
    operators = Counter(node.op_type for node in model.graph.node)
    domains = {node.domain for node in model.graph.node if node.op_type != 'MultiHeadAttention'}
    assert domains <= {'', 'ai.onnx'}
    kinds = Counter(tensor.data_type for tensor in model.graph.initializer)
    if precision == 'w8a8':
        assert operators['QuantizeLinear'] >= 4 * 2 * SMALL.aggregator_depth
        assert kinds[onnx.TensorProto.INT8] >= 4 * 2 * SMALL.aggregator_depth
    else:
        assert operators['QuantizeLinear'] == 0 and operators['DequantizeLinear'] > 0
    onnx.checker.check_model(model)


def test_what_no_engine_runs_is_refused() -> None:
    layer = QuantisedLayer(nn.Linear(8, 8), LayerPlan('a.b', 'fc1', 4, None, 'token', 4))
    with pytest.raises(UsageError, match=r'a\.b.*simulated'):
        EngineLayer(layer)
