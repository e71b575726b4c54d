# Copyright 2026 qvggt_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""What TensorRT is given, run on a CPU: half types are rounded to, products are summed in float32.

ONNX Runtime multiplies no bfloat16 on a CPU, and float16 in ways of its own. Here every value that
the graph declares to be of a half type is rounded to it, and nothing else is.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto, helper

from qvggt_ros.engine.manifest import GRAPHS, read_manifest
from qvggt_ros.engine.onnxruntime_engine import OnnxRuntimeEngine, open_graph
from qvggt_ros.export.tensorrt_graph import GraphTypes, rewrite_graph

Arrays = dict[str, np.ndarray]
HALVES = (TensorProto.FLOAT16, TensorProto.BFLOAT16)
LEFT_ALONE = ('Cast',)  # it makes what it says, and takes anything


def half_engine(bundle: Path, work: Path, types: GraphTypes) -> OnnxRuntimeEngine:
    """Return a bundle's engine whose graphs are those that TensorRT would get, computed here.

    Those graphs are left in the work folder, `<name>.rewritten.onnx`.
    """
    engine = OnnxRuntimeEngine(bundle, read_manifest(bundle), threads=1)
    for name in GRAPHS:
        rewritten, path = work / f'{name}.rewritten.onnx', work / f'{name}.rounding.onnx'
        rewrite_graph(bundle / f'{name}.onnx', rewritten, types)
        onnx.save(rounding_only(onnx.load(rewritten)), path)
        engine._sessions[name] = plain_session(path)
    return engine


def plain_session(path: Path) -> onnxruntime.InferenceSession:
    """Open a graph without optimisations, which would take rounding out of it."""
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.log_severity_level = 4
    options.intra_op_num_threads = 1
    return onnxruntime.InferenceSession(str(path), options)


def rounding_only(model: onnx.ModelProto) -> onnx.ModelProto:
    """Put float32 into the place of half types, with a cast there and back around each node."""
    inferred = onnx.shape_inference.infer_shapes(model)
    types = {v.name: v.type.tensor_type.elem_type for v in inferred.graph.value_info}
    types |= {t.name: t.data_type for t in model.graph.initializer}
    nodes: list[onnx.NodeProto] = []
    for node in model.graph.node:
        if node.op_type in LEFT_ALONE:
            nodes.append(node)
            continue
        for index, name in enumerate(node.input):
            if types.get(name) in HALVES:
                widened = f'{name}/{node.name}/{index}/float'
                nodes.append(helper.make_node('Cast', [name], [widened], to=TensorProto.FLOAT))
                node.input[index] = widened
        nodes.append(node)
        for index, name in enumerate(node.output):
            if types.get(name) in HALVES:
                wide = f'{name}/float'
                node.output[index] = wide
                nodes.append(helper.make_node('Cast', [wide], [name], to=types[name]))
    graph = model.graph
    del graph.node[:]
    graph.node.extend(nodes)
    del graph.value_info[:]
    return model


def run(path: Path, feeds: Arrays) -> list[np.ndarray]:
    """Run a graph as the engine does: inputs of int4 products are not rounded to 8 bits."""
    return list(open_graph(path, threads=1).run(None, feeds))


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
