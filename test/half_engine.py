# Copyright 2026 qvggt_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""What TensorRT is given, run on a CPU: half types are rounded to, products are summed in float32.

ONNX Runtime multiplies no bfloat16 on a CPU, and float16 in ways of its own. Here every value that
the graph declares to be of a half type is rounded to it, and nothing else is.
"""

from __future__ import annotations

from pathlib import Path

import onnx
import onnxruntime
from onnx import TensorProto, helper

from qvggt_ros.engine.manifest import GRAPHS, read_manifest
from qvggt_ros.engine.onnxruntime_engine import OnnxRuntimeEngine
from qvggt_ros.export.tensorrt_graph import GraphTypes, rewrite_graph

HALVES = (TensorProto.FLOAT16, TensorProto.BFLOAT16)
LEFT_ALONE = ('Cast',)  # it makes what it says, and takes anything


def half_engine(bundle: Path, work: Path, types: GraphTypes) -> OnnxRuntimeEngine:
    """Return a bundle's engine whose graphs are those that TensorRT would get, computed here."""
    engine = OnnxRuntimeEngine(bundle, read_manifest(bundle), threads=1)
    for name in GRAPHS:
        path = work / f'{name}.{types.products}.{types.attention}.onnx'
        rewrite_graph(bundle / f'{name}.onnx', path, types)
        model = onnx.load(path)
        rounded = rounding_only(model)
        onnx.save(rounded, path)
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
