"""Products of int8 weights and activations whose ranges were read from texts beforehand.

Only what products read is quantised, by QuantizeLinear and DequantizeLinear around each, which
runtimes fuse; onnxruntime's own static quantiser rounds every result, too, and loses accuracy.

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

_BINS, _LEVELS = 512, 128
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
            _weights(graph, node)
            node.input[0] = made
            products += 1
    return tables + products


def _activation(graph: onnx.GraphProto, value: str, limits: Range, first: onnx.NodeProto) -> str:
    low, high = limits
    step = max(high - low, _LEAST) / 255
    names = [f"{value}_step", f"{value}_zero"]
    zero = np.uint8(np.clip(np.rint(-low / step), 0, 255))
    graph.initializer.append(numpy_helper.from_array(np.array(step, np.float32), names[0]))
    graph.initializer.append(numpy_helper.from_array(np.array(zero), names[1]))
    rounded, back = f"{value}_uint8", f"{value}_rounded"
    place = list(graph.node).index(first)
    for offset, (op, given, made) in enumerate(
        [("QuantizeLinear", value, rounded), ("DequantizeLinear", rounded, back)]
    ):
        node = helper.make_node(op, [given, *names], [made], name=f"{made}_{op}")
        graph.node.insert(place + offset, node)
    return back


def _weights(graph: onnx.GraphProto, node: onnx.NodeProto) -> None:
    name = node.input[1]
    whole, step, zero = f"{name}_int8", f"{name}_steps", f"{name}_zeros"
    back = f"{node.output[0]}_weights"
    known = held(graph)
    if whole not in known:
        values = weights_of(known[name])
        step_M = np.maximum(np.abs(values).max(axis=0) / 127, _LEAST).astype(np.float32)
        rounded = np.rint(values / step_M).astype(np.int8)
        for array, called in (
            (rounded, whole),
            (step_M, step),
            (np.zeros(len(step_M), np.int8), zero),
        ):
            graph.initializer.append(numpy_helper.from_array(array, called))
    place = list(graph.node).index(node)
    turned = helper.make_node(
        "DequantizeLinear", [whole, step, zero], [back], name=f"{back}_DequantizeLinear", axis=1
    )
    graph.node.insert(place, turned)
    node.input[1] = back
