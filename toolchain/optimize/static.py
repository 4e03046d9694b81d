"""Products of int8 weights and activations whose ranges were read from texts beforehand.

Only what products read is quantised, once for all that read it, and each product is one integer
product with its bias. Onnxruntime's own static quantiser rounds every result, too, which loses
accuracy, and writes pairs of QuantizeLinear and DequantizeLinear: those around a MatMul whose bias
the runtime fuses first stay as they are, several times slower than fp32.

Shapes: (K, M) weights of a product.
"""

from collections.abc import Callable, Mapping

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper, numpy_helper
from onnxruntime.quantization.calibrate import HistogramCollector

from toolchain.optimize.products import groups, held, weights_of
from toolchain.optimize.tables import gathers, rows_in_int8
from toolchain.optimize.texts import Flow

__all__ = ["RANGES", "Range", "static"]

Range = tuple[float, float]
Array = NDArray[np.float32]

_DOMAIN = "com.microsoft"
_BINS, _LEVELS = 256, 128
_BEYOND = 0.01
_LEAST = 1e-8


def _extremes(flow: Flow) -> Range:
    return flow.low, flow.high


def _percentile(flow: Flow) -> Range:
    low, high = np.percentile(flow.sample_TK, [_BEYOND, 100 - _BEYOND])
    return min(float(low), 0.0), max(float(high), 0.0)


def _entropy(flow: Flow) -> Range:
    """Return the range that loses least information (the calibration of TensorRT)."""
    edge = max(-flow.low, flow.high, _LEAST)
    counts, edges = np.histogram(flow.sample_TK, bins=_BINS + 1, range=(-edge, edge))
    collector = HistogramCollector("entropy", False, _BINS + 1, _LEVELS, 99.99, "same")
    low, high = collector.get_entropy_threshold(
        (counts, edges, np.float64(flow.low), np.float64(flow.high)), _LEVELS
    )
    return min(float(low), 0.0), max(float(high), 0.0)


RANGES: Mapping[str, Callable[[Flow], Range]] = {
    "minmax": _extremes,
    "percentile": _percentile,
    "entropy": _entropy,
}
"""Ways to choose the range of a value from its flow."""


def static(proto: onnx.ModelProto, ranges: Mapping[str, Range]) -> int:
    """Quantise in place every product that reads a value with a range; return how many.

    Embedding rows are gathered as int8.
    """
    graph = proto.graph
    tables = rows_in_int8(graph, gathers(graph))
    products = 0
    for value, readers in groups(graph).items():
        if value not in ranges:
            continue
        made = _activation(graph, value, ranges[value], readers[0])
        for node in readers:
            _product(graph, node, made)
            products += 1
    if products and not any(o.domain == _DOMAIN for o in proto.opset_import):
        proto.opset_import.append(helper.make_opsetid(_DOMAIN, 1))
    return tables + products


def _activation(
    graph: onnx.GraphProto, value: str, limits: Range, first: onnx.NodeProto
) -> tuple[str, str, str]:
    """Round a value before its first reader; return the names of it, its scale, its zero."""
    low, high = limits
    size = max(high - low, _LEAST) / 255
    names = f"{value}_uint8", f"{value}_step", f"{value}_zero"
    zero = np.array(np.clip(np.rint(-low / size), 0, 255), np.uint8)
    graph.initializer.append(numpy_helper.from_array(np.array(size, np.float32), names[1]))
    graph.initializer.append(numpy_helper.from_array(zero, names[2]))
    node = helper.make_node(
        "QuantizeLinear", [value, *names[1:]], [names[0]], name=f"{value}_QuantizeLinear"
    )
    graph.node.insert(list(graph.node).index(first), node)
    return names


def _product(graph: onnx.GraphProto, node: onnx.NodeProto, given: tuple[str, str, str]) -> None:
    """Put an integer product in the place of `node` and of the bias that alone reads it."""
    name = node.input[1]
    whole, steps, zeros = f"{name}_int8", f"{name}_steps", f"{name}_zeros"
    known = held(graph)
    if whole not in known:
        values = weights_of(known[name])
        step_M = np.maximum(np.abs(values).max(axis=0) / 127, _LEAST).astype(np.float32)
        rounded = np.rint(values / step_M).astype(np.int8)
        graph.initializer.append(numpy_helper.from_array(rounded, whole))
        graph.initializer.append(numpy_helper.from_array(step_M, steps))
        graph.initializer.append(numpy_helper.from_array(np.zeros(len(step_M), np.int8), zeros))
    inputs, made = [given[0], whole, given[1], steps, given[2], zeros], node.output[0]
    bias = _bias(graph, made, known)
    if bias is not None:
        inputs.append(next(one for one in bias.input if one in known))
        made = bias.output[0]
        graph.node.remove(bias)
    place = list(graph.node).index(node)
    graph.node.remove(node)
    integer = helper.make_node(
        "MatMulIntegerToFloat", inputs, [made], name=node.name, domain=_DOMAIN
    )
    graph.node.insert(place, integer)


def _bias(
    graph: onnx.GraphProto, made: str, known: Mapping[str, onnx.TensorProto]
) -> onnx.NodeProto | None:
    """Return the Add of a held vector that is all that reads a product."""
    readers = [node for node in graph.node if made in node.input]
    if len(readers) != 1 or made in {value.name for value in graph.output}:
        return None
    vectors = [one for one in readers[0].input if one in known and len(known[one].dims) == 1]
    return readers[0] if readers[0].op_type == "Add" and vectors else None
