# Copyright 2026 qvggt_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""The network as three ONNX graphs: encoder, window, depth. Frames vary, the image size does not.

Everything that depends on the image size alone (position tables, resized embeddings) becomes a
constant. Attention is spelled as the engine that will run the graph computes it best.
"""

from __future__ import annotations

import contextlib
import io
import logging
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import ml_dtypes
import numpy as np
import onnx
import onnx_ir
import torch
from numpy.typing import NDArray
from onnx_ir.passes.common import CommonSubexpressionEliminationPass
from onnxscript.optimizer import optimize_ir
from torch import Tensor, nn

from qvggt_ros.engine.manifest import TAPS, TensorInfo
from qvggt_ros.errors import BundleError, UsageError
from qvggt_ros.export.engine_layers import INT4_BUFFER
from qvggt_ros.vggt.dpt_head import activate_depth
from qvggt_ros.vggt.layers import Attend, Attention
from qvggt_ros.vggt.model import VGGT

OPSET = 21
# Graphs with more weights than this keep them in a file beside: runtimes map it instead of copying
# what they have parsed (VGGT-1B's window graph takes 0.5 GB less). A protobuf file ends at 2 GiB.
EXTERNAL_DATA_BYTES = 100_000_000
# Frames while tracing: not 1, which would be taken for a constant.
TRACED_FRAMES = 3
# Numbers from which a position table is worth storing by rows and columns.
SEPARATED_TABLE = 20_000
TAP_NAMES = tuple(f'tap_{k}' for k in range(TAPS))


@dataclass(frozen=True)
class GraphSpec:
    """One graph to export: the module, its example inputs and its tensors."""

    name: str
    module: nn.Module
    example: tuple[Tensor, ...]
    inputs: tuple[TensorInfo, ...]
    outputs: tuple[TensorInfo, ...]


class EncoderGraph(nn.Module):
    """`images` [n, 3, H, W] -> `tokens` [n, P, D]."""

    def __init__(self, model: VGGT, size: tuple[int, int]) -> None:
        super().__init__()
        self.encoder = model.aggregator.patch_embed
        with torch.no_grad():
            first, positions = self.encoder.tables(*size)
        self.register_buffer('first', first.clone())
        self.register_buffer('positions', positions.clone())

    def forward(self, images: Tensor) -> Tensor:
        """Encode frames, each by itself."""
        return self.encoder(images, (self.first, self.positions))


class WindowGraph(nn.Module):
    """`tokens` [s, P, D] -> `pose_enc` [s, 9] and four taps [s, P, 2D]."""

    def __init__(self, model: VGGT, size: tuple[int, int]) -> None:
        super().__init__()
        self.aggregator, self.camera_head = model.aggregator, model.camera_head
        self.grid = model.config.grid(*size)

    def forward(self, tokens: Tensor) -> tuple[Tensor, ...]:
        """Relate the frames of one window."""
        camera_tokens, taps = self.aggregator(tokens[None], self.grid)
        return self.camera_head(camera_tokens)[-1][0], *(tap[0] for tap in taps)


class DepthGraph(nn.Module):
    """Four taps [k, P, 2D] -> `depth` and `depth_conf`, each [k, H, W]."""

    def __init__(self, model: VGGT, size: tuple[int, int]) -> None:
        super().__init__()
        # Only the head: what the module holds decides whether its weights fit one file.
        self.depth_head, self.size = model.depth_head, size

    def forward(self, *taps: Tensor) -> tuple[Tensor, Tensor]:
        """Decode frames, each by itself."""
        return activate_depth(self.depth_head(taps, self.size))


def graph_specs(model: VGGT, size: tuple[int, int]) -> tuple[GraphSpec, GraphSpec, GraphSpec]:
    """Return the three graphs for an image size (height, width) in pixels."""
    config = model.config
    rows, columns = config.grid(*size)
    patches, width, n = rows * columns, config.width, TRACED_FRAMES
    taps = tuple(
        TensorInfo(name, 'float32', ('frames', patches, 2 * width), 'feature')
        for name in TAP_NAMES
    )
    tokens = TensorInfo('tokens', 'float32', ('frames', patches, width), 'feature')
    return (
        GraphSpec(
            'encoder',
            EncoderGraph(model, size),
            (torch.rand(n, 3, *size),),
            (TensorInfo('images', 'float32', ('frames', 3, *size), 'RGB in [0, 1]'),),
            (tokens,),
        ),
        GraphSpec(
            'window',
            WindowGraph(model, size),
            (torch.randn(n, patches, width),),
            (tokens,),
            (
                TensorInfo(
                    'pose_enc',
                    'float32',
                    ('frames', 9),
                    'camera-from-world: translation 3 (own scale), quaternion x y z w, '
                    'field of view h w (rad)',
                ),
                *taps,
            ),
        ),
        GraphSpec(
            'depth',
            DepthGraph(model, size),
            tuple(torch.randn(n, patches, 2 * width) for _ in taps),
            taps,
            (
                TensorInfo('depth', 'float32', ('frames', *size), 'z-depth (own scale)'),
                TensorInfo('depth_conf', 'float32', ('frames', *size), 'confidence >= 1'),
            ),
        ),
    )


def attend_fused(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """Spell attention as ONNX Runtime's own operator, which works in tiles: little memory."""
    merged = [part.flatten(2) for part in (query, key, value)]
    out = torch.onnx.ops.symbolic(
        'com.microsoft::MultiHeadAttention',
        merged,
        attrs={'num_heads': query.shape[2]},
        dtype=query.dtype,
        shape=merged[0].shape,
        version=1,
    )
    return out.unflatten(-1, query.shape[2:])


def attend_pattern(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """Spell attention as MatMul, Softmax, MatMul, which every runtime knows."""
    scale = query.shape[-1] ** -0.5
    scores = (query * scale).transpose(1, 2) @ key.permute(0, 2, 3, 1)
    return (scores.softmax(dim=-1) @ value.transpose(1, 2)).transpose(1, 2)


SPELLINGS: dict[str, Attend] = {'fused': attend_fused, 'pattern': attend_pattern}


@contextlib.contextmanager
def attention_spelled(model: nn.Module, spelling: str) -> Iterator[None]:
    """Let every attention of a network use one spelling for a while."""
    if spelling not in SPELLINGS:
        raise UsageError(f'attention {spelling!r}: must be one of {", ".join(SPELLINGS)}')
    modules = [module for module in model.modules() if isinstance(module, Attention)]
    before = [module.attend for module in modules]
    for module in modules:
        module.attend = SPELLINGS[spelling]
    try:
        yield
    finally:
        for module, attend in zip(modules, before, strict=True):
            module.attend = attend


@torch.no_grad()
def export_graph(spec: GraphSpec, path: Path, attention: str = 'fused') -> Path | None:
    """Write one graph; return the file beside it that holds its weights, if one was needed.

    The module must be in evaluation mode and on the CPU in float32.

    Raises:
        BundleError: the exported graph is not fit for an engine.

    """
    # One plain run first: it makes the constant tables, which must not be made while tracing.
    spec.module(*spec.example)
    frames = torch.export.Dim('frames', min=1)
    shapes: tuple[object, ...] = tuple({0: frames} for _ in spec.example)
    if isinstance(spec.module, DepthGraph):
        shapes = (shapes,)  # its inputs are one variable argument
    with attention_spelled(spec.module, attention), _quiet():
        program = torch.onnx.export(
            spec.module,
            spec.example,
            dynamo=True,
            opset_version=OPSET,
            dynamic_shapes=shapes,
            input_names=[tensor.name for tensor in spec.inputs],
            output_names=[tensor.name for tensor in spec.outputs],
            optimize=False,
            verbose=False,
        )
        assert program is not None  # it is None only for the exporter without dynamo
        # Iterations share their weights: merge the equal transposes before they become constants.
        CommonSubexpressionEliminationPass()(program.model)
        optimize_ir(program.model, should_fold=_may_fold)
        _use_four_bits(program.model)
        _separate_tables(program.model)
        _forget_origins(program.model)
    weight_bytes = sum(
        tensor.numel() * tensor.element_size() for tensor in spec.module.state_dict().values()
    )
    external = weight_bytes > EXTERNAL_DATA_BYTES
    program.save(path, external_data=external)
    check_graph(path, spec)
    return path.with_name(f'{path.name}.data') if external else None


def _may_fold(node: onnx_ir.Node) -> bool | None:
    """Ask for weights to be stored as MatMul reads them; keep quantised ones as integers."""
    if node.op_type == 'DequantizeLinear':
        return False
    if node.op_type == 'Transpose' and node.inputs[0] is not None:
        return True if node.inputs[0].is_initializer() else None
    return None


def _use_four_bits(model: onnx_ir.Model) -> None:
    """Give whole numbers of 4 bits, which PyTorch keeps in 8, their own type."""
    for name, value in model.graph.initializers.items():
        if not name.endswith(INT4_BUFFER) or value.const_value is None:
            continue
        integers = value.const_value.numpy().astype(ml_dtypes.int4)
        value.const_value = onnx_ir.Tensor(integers, dtype=onnx_ir.DataType.INT4, name=name)
        value.type = onnx_ir.TensorType(onnx_ir.DataType.INT4)


def _separate_tables(model: onnx_ir.Model) -> None:
    """Store position tables [1, C, H, W] as their rows and columns; runtimes expand them on load.

    Half of the channels depend on the column alone, half on the row: at VGGT-1B's size the whole
    table has 100 MB, more than all the weights of its graph.
    """
    graph = model.graph
    for name, value in list(graph.initializers.items()):
        if value.const_value is None or len(value.const_value.shape) != 4:
            continue
        table = value.const_value.numpy()
        parts = _rows_and_columns(table)
        if parts is not None:
            shape = (1, table.shape[1] // 2, *table.shape[2:])
            expanded = _expansion(graph, name, parts, shape)
            onnx_ir.convenience.replace_all_uses_with(value, expanded)
            del graph.initializers[name]


def _rows_and_columns(
    table: NDArray[np.float32],
) -> tuple[NDArray[np.float32], NDArray[np.float32]] | None:
    """Return what a large table's two halves of channels are made of; None for any other one."""
    if table.shape[0] != 1 or table.shape[1] % 2 or table.size < SEPARATED_TABLE:
        return None
    half = table.shape[1] // 2
    by_column, by_row = table[:, :half], table[:, half:]
    if (by_column != by_column[:, :, :1]).any() or (by_row != by_row[..., :1]).any():
        return None
    return by_column[:, :, :1], by_row[..., :1]


def _expansion(
    graph: onnx_ir.Graph,
    name: str,
    parts: tuple[NDArray[np.float32], ...],
    shape: tuple[int, ...],
) -> onnx_ir.Value:
    """Put nodes at the graph's beginning that expand both parts and join them."""

    def constant(suffix: str, array: NDArray[np.generic]) -> onnx_ir.Value:
        tensor = onnx_ir.Tensor(np.ascontiguousarray(array), name=f'{name}_{suffix}')
        made = onnx_ir.Value(
            name=tensor.name,
            const_value=tensor,
            type=onnx_ir.TensorType(tensor.dtype),
            shape=onnx_ir.Shape(array.shape),
        )
        graph.register_initializer(made)
        return made

    target = constant('shape', np.asarray(shape, np.int64))
    nodes = [
        onnx_ir.node('Expand', [constant(side, part), target])
        for side, part in zip(('columns', 'rows'), parts, strict=True)
    ]
    nodes.append(onnx_ir.node('Concat', [node.outputs[0] for node in nodes], {'axis': 1}))
    for index, node in enumerate(nodes):
        node.outputs[0].name = f'{name}_expanded_{index}'
    graph.insert_before(graph[0], nodes)
    return nodes[-1].outputs[0]


def _forget_origins(model: onnx_ir.Model) -> None:
    """Leave out where in which source file each node came from: half the size of a small graph."""
    for node in model.graph.all_nodes():
        node.metadata_props.clear()
        node.doc_string = None
    for value in (*model.graph.initializers.values(), *model.graph.inputs, *model.graph.outputs):
        value.metadata_props.clear()


def check_graph(path: Path, spec: GraphSpec) -> None:
    """Refuse a graph with other tensors than the spec's, or with float64 numbers in it."""
    graph = onnx.load(path, load_external_data=False).graph
    for kind, wanted, found in (
        ('inputs', spec.inputs, graph.input),
        ('outputs', spec.outputs, graph.output),
    ):
        if [tensor.name for tensor in wanted] != [value.name for value in found]:
            raise BundleError(
                f'{path}: exported {kind} are {[value.name for value in found]}, not '
                f'{[tensor.name for tensor in wanted]}'
            )
    double = onnx.TensorProto.DOUBLE
    for initializer in graph.initializer:
        if initializer.data_type == double:
            raise BundleError(f'{path}: {initializer.name} is float64; engines need float32')
    for value in graph.value_info:
        if value.type.tensor_type.elem_type == double:
            raise BundleError(f'{path}: {value.name} is float64; engines need float32')


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keep the exporter's notes off the user's screen; errors are raised all the same."""
    logger = logging.getLogger('torch.onnx')
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter('ignore')
            yield
    finally:
        logger.setLevel(level)
