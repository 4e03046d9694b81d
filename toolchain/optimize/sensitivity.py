"""How much the outputs move when one matrix product is in int8, or any set of them.

One graph holds every product twice, in fp32 and as dynamic int8 would round it, and a switch for
each: one session answers for all sets.

Shapes: (K, M) weights of a product.
"""

import copy
from collections.abc import Collection

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from toolchain.optimize.precision import Calibration
from toolchain.optimize.products import held, plain_products, weights_of
from toolchain.optimize.texts import Asked

__all__ = ["Sensitivity"]

Array = NDArray[np.float32]
_LEAST = 1e-12


class Sensitivity:
    """Answers of a model with some of its products rounded as dynamic int8 rounds them."""

    def __init__(self, proto: onnx.ModelProto) -> None:
        switched = copy.deepcopy(proto)
        self.names = tuple(node.output[0] for node in plain_products(switched.graph))
        for node in plain_products(switched.graph):
            _switch(switched.graph, node)
        self._asked = Asked(switched)

    def answers(self, rows: Calibration, rounded: Collection[str]) -> Array:
        """Return the logits of every text with the products that make `rounded` in int8."""
        switches = {_switch_of(name): np.array(name in rounded) for name in self.names}
        return self._asked.answers(rows, switches)


def _switch_of(name: str) -> str:
    return f"{name}_in_int8"


def _switch(graph: onnx.GraphProto, node: onnx.NodeProto) -> None:
    made, given = node.output[0], node.input[0]
    values = weights_of(held(graph)[node.input[1]])
    step_M = np.maximum(np.abs(values).max(axis=0) / 127, _LEAST)
    weights = f"{made}_rounded"
    graph.initializer.append(
        numpy_helper.from_array((np.rint(values / step_M) * step_M).astype(np.float32), weights)
    )
    names = [f"{made}_{part}" for part in ("uint8", "step", "zero", "back", "int8", "fp32")]
    place = list(graph.node).index(node)
    new = [
        helper.make_node("DynamicQuantizeLinear", [given], names[:3], name=f"{made}_quantize"),
        helper.make_node("DequantizeLinear", names[:3], [names[3]], name=f"{made}_back"),
        helper.make_node("MatMul", [names[3], weights], [names[4]], name=f"{made}_int8"),
        helper.make_node("MatMul", [given, node.input[1]], [names[5]], name=f"{made}_fp32"),
        helper.make_node(
            "Where", [_switch_of(made), names[4], names[5]], [made], name=f"{made}_choice"
        ),
    ]
    graph.node.remove(node)
    for offset, one in enumerate(new):
        graph.node.insert(place + offset, one)
    graph.input.append(helper.make_tensor_value_info(_switch_of(made), TensorProto.BOOL, []))
