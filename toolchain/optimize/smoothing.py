"""Outliers moved from activations into weights, where one scale per channel takes them.

A product reads X / s and holds s * W, which is the same product (Xiao et al. 2022, SmoothQuant,
equations 3 and 4).

Shapes: (K, M) weights of a product.
"""

from collections.abc import Mapping

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper, numpy_helper

from toolchain.optimize.products import groups, held, weights_of
from toolchain.optimize.texts import Flow

__all__ = ["smooth"]

Array = NDArray[np.float32]
_LEAST = 1e-5


def smooth(proto: onnx.ModelProto, flow: Mapping[str, Flow], strength: float) -> dict[str, Flow]:
    """Divide what products read by scales, multiply their weights; return what they read now.

    `strength` (alpha of the paper) is 0 for all the difficulty left to activations, 1 for all of it
    given to weights. Where nothing else reads what a norm makes, its own weights take the division;
    elsewhere a Mul does, once for all products that read the value.
    """
    graph = proto.graph
    known = held(graph)
    found: dict[str, Flow] = {}
    for value, readers in groups(graph).items():
        rows_K = np.max(
            [np.abs(weights_of(known[node.input[1]])).max(axis=1) for node in readers], axis=0
        )
        scale_K = _scale(flow[value].peaks_K, rows_K, strength)
        for node in readers:
            # A table that is embeddings, too, stays what it is.
            name = f"{node.input[1]}_{node.output[0]}_smooth"
            weights = weights_of(known[node.input[1]]) * scale_K[:, None]
            graph.initializer.append(numpy_helper.from_array(weights, name))
            node.input[1] = name
        if not _fold(graph, value, scale_K, readers):
            _divide(graph, value, scale_K, readers)
        found[readers[0].input[0]] = flow[value].divided(scale_K)
    return found


def _scale(peaks_K: Array, rows_K: Array, strength: float) -> Array:
    scale = np.maximum(peaks_K, _LEAST) ** strength / np.maximum(rows_K, _LEAST) ** (1 - strength)
    # A common factor changes nothing; this one keeps the numbers near where they were.
    return np.asarray(scale / np.exp(np.log(scale).mean()), dtype=np.float32)


def _fold(
    graph: onnx.GraphProto, value: str, scale_K: Array, readers: list[onnx.NodeProto]
) -> bool:
    """Divide the weights of the norm that makes `value` when the readers are its only ones."""
    users = sum(list(node.input).count(value) for node in graph.node)
    maker = next((node for node in graph.node if value in node.output), None)
    if maker is None or maker.op_type != "LayerNormalization" or users != len(readers):
        return False
    known = held(graph)
    if not all(name in known for name in maker.input[1:]):
        return False
    for place, name in list(enumerate(maker.input))[1:]:
        divided = weights_of(known[name]) / scale_K
        graph.initializer.append(numpy_helper.from_array(divided, f"{name}_{value}_smooth"))
        maker.input[place] = f"{name}_{value}_smooth"
    return True


def _divide(
    graph: onnx.GraphProto, value: str, scale_K: Array, readers: list[onnx.NodeProto]
) -> None:
    factor, divided = f"{value}_factor", f"{value}_smooth"
    graph.initializer.append(numpy_helper.from_array(1 / scale_K, factor))
    first = min(list(graph.node).index(node) for node in readers)
    graph.node.insert(
        first, helper.make_node("Mul", [value, factor], [divided], name=f"{value}_divide")
    )
    for node in readers:
        node.input[0] = divided
