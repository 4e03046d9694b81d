"""Tables of embeddings as integers: rows are gathered in few bits and only then made floats.

Shapes: (V, K) a table of V rows, K features.
"""

from collections.abc import Iterable

import numpy as np
import onnx
from onnx import helper, numpy_helper

from toolchain.optimize.products import held, weights_of

__all__ = ["gathers", "rows_in_int8"]

_LEAST = 1e-12


def gathers(graph: onnx.GraphProto) -> list[onnx.NodeProto]:
    """Return every Gather of whole rows of a held table of floats."""
    flat = {
        tensor.name
        for tensor in graph.initializer
        if len(tensor.dims) == 2 and tensor.data_type == onnx.TensorProto.FLOAT
    }
    return [
        node
        for node in graph.node
        if node.op_type == "Gather"
        and node.input[0] in flat
        and not any(a.name == "axis" and a.i for a in node.attribute)
    ]


def rows_in_int8(graph: onnx.GraphProto, nodes: Iterable[onnx.NodeProto]) -> int:
    """Hold the tables of these Gathers as int8 with one scale a row; return how many changed.

    Standard operators only, so that every runtime takes it.
    """
    changed = 0
    for node in list(nodes):
        table, ids, made = node.input[0], node.input[1], node.output[0]
        whole, scales = f"{table}_int8", f"{table}_scales"
        known = held(graph)
        if whole not in known:
            values = weights_of(known[table])
            step = np.maximum(np.abs(values).max(axis=1, keepdims=True) / 127, _LEAST)
            graph.initializer.append(
                numpy_helper.from_array(np.rint(values / step).astype(np.int8), whole)
            )
            graph.initializer.append(numpy_helper.from_array(step.astype(np.float32), scales))
        place = list(graph.node).index(node)
        name = node.name or made
        new = [
            helper.make_node("Gather", [whole, ids], [f"{made}_int8"], name=f"{name}_int8"),
            helper.make_node("Gather", [scales, ids], [f"{made}_scale"], name=f"{name}_scale"),
            helper.make_node(
                "Cast", [f"{made}_int8"], [f"{made}_float"], name=f"{name}_cast", to=1
            ),
            helper.make_node(
                "Mul", [f"{made}_float", f"{made}_scale"], [made], name=f"{name}_scaled"
            ),
        ]
        graph.node.remove(node)
        for offset, one in enumerate(new):
            graph.node.insert(place + offset, one)
        changed += 1
    return changed
