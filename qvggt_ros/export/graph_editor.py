# Copyright 2026 qvggt_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Put nodes, constants and casts into an ONNX graph."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import cast

import numpy as np
import onnx_ir
from numpy.typing import NDArray
from onnx_ir import DataType, Node, Value

from qvggt_ros.errors import BundleError


class GraphEditor:
    """A graph, and names that nothing in it has yet."""

    def __init__(self, graph: onnx_ir.Graph) -> None:
        self.graph = graph
        self._names = 0

    def follow(self, node: Node, made: Value) -> None:
        """Put what makes a value behind another node, in whose place it answers."""
        (output,), follower = node.outputs, cast(Node, made.producer())
        if output.is_graph_output():
            raise BundleError(f'graph: its output {output.name} is a bare product')
        uses = [use for use in output.uses() if use.node is not follower]
        self.graph.insert_after(node, follower)
        for use in uses:
            use.node.replace_input_with(use.idx, made)

    def operator(
        self,
        op_type: str,
        inputs: Iterable[Value],
        before: Node,
        attributes: Mapping[str, object] | None = None,
    ) -> Value:
        """Return the output of a new operator, which is put before a node."""
        made = onnx_ir.node(op_type, list(inputs), attributes or {}, name=self.name(op_type))  # type: ignore[arg-type]
        made.outputs[0].name = self.name('value')
        self.graph.insert_before(before, made)
        return made.outputs[0]

    def cast(self, value: Value, to: DataType) -> Value:
        """Return a value in another type; the caller puts what makes it into the graph."""
        made = onnx_ir.node('Cast', [value], {'to': to}, name=self.name('cast'))
        made.outputs[0].name = self.name('cast')
        made.outputs[0].type = onnx_ir.TensorType(to)
        return made.outputs[0]

    def constant(self, array: NDArray[np.generic] | np.generic, like: str | None) -> Value:
        """Return a new constant, named after another one."""
        tensor = onnx_ir.tensor(np.asarray(array), name=self.name(like or 'constant'))
        made = Value(
            name=tensor.name,
            const_value=tensor,
            type=onnx_ir.TensorType(tensor.dtype),
            shape=onnx_ir.Shape(np.shape(array)),
        )
        self.graph.register_initializer(made)
        return made

    def name(self, like: str) -> str:
        """Return a name that is new in the graph."""
        self._names += 1
        return f'{like}/trt{self._names}'
