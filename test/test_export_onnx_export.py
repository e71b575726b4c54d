# Copyright 2026 qvggt_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""The exported graphs compute what the network computes, however attention is spelled."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from small_networks import SMALL, SMALL_SIZE, lively

from qvggt_ros.engine.manifest import TensorInfo
from qvggt_ros.errors import UsageError
from qvggt_ros.export import onnx_export
from qvggt_ros.export.onnx_export import (
    OPSET,
    SPELLINGS,
    GraphSpec,
    attend_pattern,
    attention_spelled,
    export_graph,
    graph_specs,
)
from qvggt_ros.vggt import VGGT
from qvggt_ros.vggt.layers import Attention, attend_sdpa

pytestmark = pytest.mark.slow

LIMIT = 1e-4  # of each output's largest magnitude
ATTENTION_OPS = {'fused': 'MultiHeadAttention', 'pattern': 'Softmax'}

Graphs = dict[str, Path]


@pytest.fixture(scope='module')
def model() -> VGGT:
    return lively(SMALL)


@pytest.fixture(scope='module', params=sorted(SPELLINGS))
def graphs(
    request: pytest.FixtureRequest, model: VGGT, tmp_path_factory: pytest.TempPathFactory
) -> tuple[str, Graphs]:
    """Return a spelling and the three graphs exported with it."""
    folder = tmp_path_factory.mktemp(request.param)
    paths = {}
    for spec in graph_specs(model, SMALL_SIZE):
        paths[spec.name] = folder / f'{spec.name}.onnx'
        assert export_graph(spec, paths[spec.name], request.param) is None
    return request.param, paths


def run(path: Path, **feeds: torch.Tensor) -> list[np.ndarray]:
    session = onnxruntime.InferenceSession(str(path), providers=['CPUExecutionProvider'])
    return session.run(None, {name: value.numpy() for name, value in feeds.items()})


def assert_close(found: np.ndarray, wanted: torch.Tensor) -> None:
    assert found.shape == tuple(wanted.shape)
    assert np.abs(found - wanted.numpy()).max() < LIMIT * wanted.abs().max().item()


@pytest.mark.parametrize('frames', [1, 2, 3, 5])
@torch.inference_mode()
def test_graphs_equal_the_network(model: VGGT, graphs: tuple[str, Graphs], frames: int) -> None:
    _, paths = graphs
    images = torch.rand(frames, 3, *SMALL_SIZE, generator=torch.Generator().manual_seed(frames))
    (tokens,) = run(paths['encoder'], images=images)
    assert_close(tokens, model.encode(images))
    pose_enc, *taps = run(paths['window'], tokens=torch.from_numpy(tokens))
    wanted_pose, wanted_taps = model.window(model.encode(images)[None])
    assert_close(pose_enc, wanted_pose[0])
    for tap, wanted in zip(taps, wanted_taps, strict=True):
        assert_close(tap, wanted[0])
    whole = model(images[None])
    feeds = {f'tap_{k}': torch.from_numpy(tap) for k, tap in enumerate(taps)}
    depth, conf = run(paths['depth'], **feeds)
    assert_close(depth, whole['depth'][0, ..., 0])
    assert_close(conf, whole['depth_conf'][0])


def test_attention_is_spelled_as_asked(graphs: tuple[str, Graphs]) -> None:
    spelling, paths = graphs
    for name, count in (('encoder', 1), ('window', 2 * 4 + 2)):
        proto = onnx.load(paths[name])
        ops = [node.op_type for node in proto.graph.node]
        assert {op: ops.count(op) for op in ATTENTION_OPS.values()} == {
            op: count if op == ATTENTION_OPS[spelling] else 0 for op in ATTENTION_OPS.values()
        }


def test_graphs_are_float32_of_one_opset_with_baked_tables(graphs: tuple[str, Graphs]) -> None:
    _, paths = graphs
    for path in paths.values():
        proto = onnx.load(path)
        opsets = {opset.domain: opset.version for opset in proto.opset_import}
        assert opsets[''] == OPSET
        numbers = {tensor.data_type for tensor in proto.graph.initializer}
        assert onnx.TensorProto.DOUBLE not in numbers
        ops = {node.op_type for node in proto.graph.node}
        assert not ops & {'Sin', 'Cos', 'If', 'Loop'}
    encoder_ops = {node.op_type for node in onnx.load(paths['encoder']).graph.node}
    assert 'Resize' not in encoder_ops


def test_linear_weights_are_plain_constants_of_matmul(graphs: tuple[str, Graphs]) -> None:
    spelling, paths = graphs
    proto = onnx.load(paths['window'])
    constants = {tensor.name for tensor in proto.graph.initializer}
    transposed = [node.input[0] for node in proto.graph.node if node.op_type == 'Transpose']
    assert not constants & set(transposed)
    products = [node for node in proto.graph.node if node.op_type == 'MatMul']
    with_weight = [node for node in products if node.input[1] in constants]
    # Four per block; in each camera iteration embedding, modulation and two of the branch, but
    # the first iteration embeds a constant.
    iterations = SMALL.camera_iterations
    blocks = 2 * SMALL.aggregator_depth + iterations * SMALL.camera_depth
    assert len(with_weight) == 4 * blocks + 4 * iterations - 1
    assert len(products) - len(with_weight) == (2 * blocks if spelling == 'pattern' else 0)


def test_no_weight_is_stored_twice(model: VGGT, graphs: tuple[str, Graphs]) -> None:
    _, paths = graphs
    for spec in graph_specs(model, SMALL_SIZE):
        weights = sum(value.numel() for value in spec.module.state_dict().values())
        constants = onnx.load(paths[spec.name]).graph.initializer
        assert sum(int(np.prod(tensor.dims)) for tensor in constants) < 1.3 * weights + 20_000


def test_weights_too_big_for_one_file_lie_beside_it(
    model: VGGT, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(onnx_export, 'EXTERNAL_DATA_BYTES', 0)
    path = tmp_path / 'encoder.onnx'
    assert export_graph(graph_specs(model, SMALL_SIZE)[0], path) == tmp_path / 'encoder.onnx.data'
    assert sorted(tmp_path.iterdir()) == [path, tmp_path / 'encoder.onnx.data']
    images = torch.rand(2, 3, *SMALL_SIZE)
    with torch.inference_mode():
        assert_close(run(path, images=images)[0], model.encode(images))


def test_another_size_than_the_stored_one_is_baked(model: VGGT, tmp_path: Path) -> None:
    encoder, _, depth = graph_specs(model, (14, 42))
    for spec in (encoder, depth):
        export_graph(spec, tmp_path / f'{spec.name}.onnx')
    images = torch.rand(2, 3, 14, 42)
    with torch.inference_mode():
        assert_close(run(tmp_path / 'encoder.onnx', images=images)[0], model.encode(images))
        taps = [torch.randn(2, 12, 64) for _ in range(4)]
        wanted = model.decode_depth(taps, (14, 42))
    found = run(tmp_path / 'depth.onnx', **{f'tap_{k}': tap for k, tap in enumerate(taps)})
    assert_close(found[0], wanted[0])
    assert_close(found[1], wanted[1])


def test_the_plain_spelling_is_attention() -> None:
    parts = [torch.randn(2, 7, 3, 8, dtype=torch.float64) for _ in range(3)]
    assert (attend_pattern(*parts) - attend_sdpa(*parts)).abs().max() < 1e-12


def test_the_networks_own_spelling_comes_back(model: VGGT) -> None:
    with pytest.raises(RuntimeError), attention_spelled(model, 'fused'):
        raise RuntimeError
    attends = {module.attend for module in model.modules() if isinstance(module, Attention)}
    assert attends == {attend_sdpa}


def test_an_unknown_spelling_is_refused(model: VGGT) -> None:
    with pytest.raises(UsageError, match='fused, pattern'), attention_spelled(model, 'flash'):
        pass


class GlobalAttention(torch.nn.Module):
    """Attention of VGGT-1B's sixteen heads over all tokens of a window: [s, T, D] -> [s, T, D]."""

    def __init__(self) -> None:
        super().__init__()
        self.attention = Attention(128, 16, eps=1e-5, qk_norm=False)  # narrow: as many scores

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        frames, count, width = tokens.shape
        return self.attention(tokens.reshape(1, frames * count, width)).reshape(tokens.shape)


PEAK = """
import sys
import numpy as np
from pathlib import Path
from qvggt_ros.engine.onnxruntime_engine import open_graph
from qvggt_ros.evaluation.bench_worker import peak_memory_mb
session = open_graph(Path(sys.argv[1]), 2)
x = np.zeros((int(sys.argv[2]), int(sys.argv[3]), 128), np.float32)
before = peak_memory_mb()
session.run(None, {'tokens': x})
print(peak_memory_mb() - before)
"""


def test_fused_attention_needs_no_memory_for_the_scores(tmp_path: Path) -> None:
    """At 518x392 a frame has 1041 tokens; eight of them would have 4.4 GB of scores."""
    tokens, scores_mb = 1041, 16 * 1041**2 * 4 / 2**20
    model = GlobalAttention().eval()
    shape = ('frames', tokens, 128)
    spec = GraphSpec(
        'attention',
        model,
        (torch.zeros(3, tokens, 128),),
        (TensorInfo('tokens', 'float32', shape, 'feature'),),
        (TensorInfo('related', 'float32', shape, 'feature'),),
    )
    peaks_mb = {}
    for spelling, frames in (('fused', 8), ('fused', 2), ('pattern', 2)):
        path = tmp_path / f'{spelling}.onnx'
        export_graph(spec, path, spelling)
        command = [sys.executable, '-c', PEAK, str(path), str(frames), str(tokens)]
        shown = subprocess.run(command, capture_output=True, text=True, check=True).stdout
        peaks_mb[spelling, frames] = float(shown)
    print(
        {f'{name}, {count} frames': f'{peak:.0f} MB' for (name, count), peak in peaks_mb.items()}
    )
    assert peaks_mb['pattern', 2] > 2**2 * scores_mb  # the measurement sees scores where there are
    assert peaks_mb['fused', 2] < 0.3 * 2**2 * scores_mb
    assert peaks_mb['fused', 8] < 0.05 * 8**2 * scores_mb
