"""The matrix products of a graph with weights that it holds: what precisions below fp32 rewrite.

Shapes: (K, M) weights of a product, K features that it reads, M that it makes.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper, numpy_helper

from toolchain.errors import UsageError
from toolchain.onnx_file import read_model, size_of, write_model
from toolchain.optimize.transform import PassFacts

__all__ = [
    "check",
    "finish",
    "fold_transposes",
    "groups",
    "held",
    "plain_products",
    "read_products",
    "stacked",
    "weights_of",
]

_QUANTISED = (
    "DequantizeLinear",
    "DynamicQuantizeLinear",
    "DynamicQuantizeMatMul",
    "GatherBlockQuantized",
    "MatMulInteger",
    "MatMulIntegerToFloat",
    "MatMulNBits",
    "QLinearMatMul",
    "QuantizeLinear",
)
_HALVES = {onnx.TensorProto.FLOAT16: "float16", onnx.TensorProto.BFLOAT16: "bfloat16"}
# Per-channel scales need it.
_MIN_OPSET = 13


def read_products(source: Path) -> onnx.ModelProto:
    """Read an fp32 file, with every product of held weights as a MatMul of (K, M) weights.

    Raises UsageError for a file that is not whole ONNX, is in fewer bits already, or has nothing to
    quantise.
    """
    proto = read_model(source)
    check(proto, source)
    fold_transposes(proto.graph)
    _split_gemms(proto.graph)
    for number, node in enumerate(proto.graph.node):
        # Nodes are told apart by name from here on.
        node.name = node.name or f"node_{number}"
    if not plain_products(proto.graph):
        raise UsageError(f"{source}: nothing to quantise: no matrix product has weights")
    return proto


def check(proto: onnx.ModelProto, source: Path) -> None:
    """Raise UsageError for a graph in fewer bits already, without a product, or too old."""
    ops = {node.op_type for node in proto.graph.node}
    found = sorted(ops.intersection(_QUANTISED))
    found += [_HALVES[t.data_type] for t in proto.graph.initializer if t.data_type in _HALVES]
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


def held(graph: onnx.GraphProto) -> dict[str, onnx.TensorProto]:
    """Return what the graph holds by name."""
    return {tensor.name: tensor for tensor in graph.initializer}


def weights_of(tensor: onnx.TensorProto) -> NDArray[np.float32]:
    """Return the numbers of a held tensor."""
    return np.asarray(numpy_helper.to_array(tensor), dtype=np.float32)


def plain_products(graph: onnx.GraphProto) -> list[onnx.NodeProto]:
    """Return every MatMul whose right side is a held (K, M) matrix of floats, in graph order."""
    flat = {
        tensor.name
        for tensor in graph.initializer
        if len(tensor.dims) == 2 and tensor.data_type == onnx.TensorProto.FLOAT
    }
    return [
        node
        for node in graph.node
        if node.op_type == "MatMul" and node.input[1] in flat and node.input[0] not in flat
    ]


def groups(graph: onnx.GraphProto) -> dict[str, list[onnx.NodeProto]]:
    """Return the products by the activation that they read, which is quantised once for all."""
    found: dict[str, list[onnx.NodeProto]] = {}
    for node in plain_products(graph):
        found.setdefault(node.input[0], []).append(node)
    return found


def stacked(graph: onnx.GraphProto) -> list[str]:
    """Return the products with a stack of matrices, which onnxruntime's quantiser gets wrong."""
    deep = {tensor.name for tensor in graph.initializer if len(tensor.dims) != 2}
    return [
        node.name
        for node in graph.node
        if node.op_type == "MatMul" and any(name in deep for name in node.input)
    ]


def fold_transposes(graph: onnx.GraphProto) -> None:
    """Hold transposed weights as such: quantisers take what a node makes for an activation."""
    known = held(graph)
    for node in [n for n in graph.node if n.op_type == "Transpose" and n.input[0] in known]:
        weights = numpy_helper.to_array(known[node.input[0]])
        perm = next((list(a.ints) for a in node.attribute if a.name == "perm"), None)
        turned = np.ascontiguousarray(weights.transpose(perm))
        graph.initializer.append(numpy_helper.from_array(turned, node.output[0]))
        graph.node.remove(node)


def _split_gemms(graph: onnx.GraphProto) -> None:
    """Write every plain Gemm of held weights as MatMul and Add."""
    known = held(graph)
    nodes: list[onnx.NodeProto] = []
    for node in graph.node:
        attributes = {a.name: helper.get_attribute_value(a) for a in node.attribute}
        plain = not attributes.get("transA") and all(
            attributes.get(name, 1.0) == 1.0 for name in ("alpha", "beta")
        )
        if node.op_type != "Gemm" or not plain or node.input[1] not in known:
            nodes.append(node)
            continue
        weight = node.input[1]
        if attributes.get("transB"):
            turned = np.ascontiguousarray(numpy_helper.to_array(known[weight]).T)
            weight = f"{weight}_turned"
            graph.initializer.append(numpy_helper.from_array(turned, weight))
        bias = len(node.input) > 2 and bool(node.input[2])
        made = f"{node.output[0]}_product" if bias else node.output[0]
        nodes.append(helper.make_node("MatMul", [node.input[0], weight], [made], name=node.name))
        if bias:
            name = f"{node.name}_bias"
            nodes.append(helper.make_node("Add", [made, node.input[2]], node.output, name=name))
    del graph.node[:]
    graph.node.extend(nodes)


def finish(
    name: str,
    source: onnx.ModelProto | tuple[int, int],
    result: onnx.ModelProto,
    out: Path,
    *,
    changed: int,
    notes: Sequence[str] = (),
) -> PassFacts:
    """Write the result without what nothing reads, and return what was done.

    `source` is the model it was made from, or its nodes and bytes where that is gone.
    """
    before = source if isinstance(source, tuple) else (len(source.graph.node), size_of(source))
    _drop_unread(result.graph)
    del result.metadata_props[:]
    del result.graph.value_info[:]
    result.producer_name = "toolchain"
    result.ClearField("producer_version")
    write_model(result, out)
    return PassFacts(
        name=name,
        changed=changed,
        nodes_before=before[0],
        nodes_after=len(result.graph.node),
        bytes_before=before[1],
        bytes_after=size_of(result),
        notes=tuple(notes),
    )


def _drop_unread(graph: onnx.GraphProto) -> None:
    read = {name for node in graph.node for name in node.input}
    read |= {value.name for value in graph.output}
    kept = [tensor for tensor in graph.initializer if tensor.name in read]
    if len(kept) < len(graph.initializer):
        copies = [onnx.TensorProto.FromString(t.SerializeToString()) for t in kept]
        del graph.initializer[:]
        graph.initializer.extend(copies)
