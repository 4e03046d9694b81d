"""Store weights as int8 and quantise activations as they come: no calibration data needed.

Weights are symmetric int8 with one scale per output channel; activations uint8 with one scale per
tensor, found at run time. Embedding rows are gathered as int8 and only then turned to floats.
Measured on x86 with VNNI: one scale per tensor costs accuracy, uint8 weights cost half the speed,
keeping the classifier in float gains neither speed nor accuracy.
"""

import tempfile
from pathlib import Path
from typing import Literal

import numpy as np
import onnx
from onnxruntime.quantization import QuantType, quantize_dynamic

from toolchain.errors import UsageError
from toolchain.optimize.graph import read_proto, write_proto
from toolchain.optimize.precision import Calibration, Precision
from toolchain.optimize.transform import PassFacts

__all__ = ["precision", "quantised", "write"]

_QUANTISED = (
    "DequantizeLinear",
    "DynamicQuantizeLinear",
    "DynamicQuantizeMatMul",
    "MatMulInteger",
    "MatMulIntegerToFloat",
    "MatMulNBits",
    "QLinearMatMul",
    "QuantizeLinear",
)
# Per-channel scales need it.
_MIN_OPSET = 13


def write(source: Path, out: Path, calibration: Calibration = ()) -> PassFacts:  # noqa: ARG001
    """Write `source` with int8 weights; see `quantised`."""
    return quantised(source, out, name="int8", bits=8)


def quantised(source: Path, out: Path, *, name: str, bits: Literal[7, 8]) -> PassFacts:
    """Write `source` with weights of so many bits; equal sources give equal bytes.

    The outputs move: whether too far is for the gates to say, on real data. Raises UsageError for
    a file that is not whole ONNX, is quantised already, or has nothing to quantise.
    """
    proto = read_proto(source)
    _check(proto, source)
    nodes, size = len(proto.graph.node), proto.ByteSize()
    _fold_transposes(proto.graph)
    # The quantiser infers shapes itself and stumbles over shapes of weights that it transposes.
    del proto.graph.value_info[:]
    # Otherwise it advises, through the root logger, a preprocessing that these graphs had.
    onnx.helper.set_model_props(proto, {"onnx.quant.pre_process": "onnxruntime.quant"})
    with tempfile.TemporaryDirectory() as folder:
        aside = Path(folder) / "model.onnx"
        quantize_dynamic(
            proto,
            aside,
            per_channel=True,
            weight_type=QuantType.QInt8,
            reduce_range=bits == 7,
            nodes_to_exclude=_stacked(proto),
        )
        result = read_proto(aside)
    del result.metadata_props[:]
    del result.graph.value_info[:]
    result.producer_name = "toolchain"
    result.ClearField("producer_version")
    write_proto(result, out)
    return PassFacts(
        name=name,
        changed=sum(
            node.op_type in ("MatMulInteger", "DequantizeLinear") for node in result.graph.node
        ),
        nodes_before=nodes,
        nodes_after=len(result.graph.node),
        bytes_before=size,
        bytes_after=result.ByteSize(),
    )


def _check(proto: onnx.ModelProto, source: Path) -> None:
    ops = {node.op_type for node in proto.graph.node}
    found = sorted(ops.intersection(_QUANTISED))
    if found:
        raise UsageError(
            f"{source}: quantising twice: the graph already holds {found[0]}",
            "give the fp32 model it was made from",
        )
    if not ops.intersection(("Gemm", "MatMul")):
        raise UsageError(f"{source}: nothing to quantise: the graph holds no matrix product")
    opset = max((o.version for o in proto.opset_import if o.domain in ("", "ai.onnx")), default=0)
    if opset < _MIN_OPSET:
        raise UsageError(
            f"{source}: opset {opset}, int8 with a scale per channel needs {_MIN_OPSET} or newer",
            "export it again",
        )


def _fold_transposes(graph: onnx.GraphProto) -> None:
    """Hold transposed weights as such: the quantiser takes what a node makes for an activation."""
    held = {tensor.name: tensor for tensor in graph.initializer}
    for node in [n for n in graph.node if n.op_type == "Transpose" and n.input[0] in held]:
        weights = onnx.numpy_helper.to_array(held[node.input[0]])
        perm = next((list(a.ints) for a in node.attribute if a.name == "perm"), None)
        turned = np.ascontiguousarray(weights.transpose(perm))
        graph.initializer.append(onnx.numpy_helper.from_array(turned, node.output[0]))
        graph.node.remove(node)


def _stacked(proto: onnx.ModelProto) -> list[str]:
    """Return the products with a stack of matrices, which the quantiser gets wrong."""
    flat = {tensor.name for tensor in proto.graph.initializer if len(tensor.dims) == 2}
    held = {tensor.name for tensor in proto.graph.initializer} - flat
    return [
        node.name
        for node in proto.graph.node
        if node.op_type == "MatMul" and any(name in held for name in node.input)
    ]


precision = Precision(write=write)
