"""Weights as blocks of small integers with a scale each, multiplied as such by the runtime.

Activations are rounded to int8 block by block as they come (accuracy level 4 of MatMulNBits), which
loses next to nothing; without it the runtime unpacks weights to floats and is slower than fp32.

Shapes: (K, M) weights of a product; in blocks (M, K / block, bytes of a block). V rows of a table.
"""

from collections.abc import Iterable
from typing import Literal

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper, numpy_helper
from onnxruntime.capi._pybind_state import quantize_matmul_4bits, quantize_matmul_8bits

from toolchain.optimize.products import held, weights_of
from toolchain.optimize.tables import gathers, rows_in_int8

__all__ = ["blockwise", "tables_in_blocks"]

Bits = Literal[4, 8]
Array = NDArray[np.float32]

_LEVEL = 4
_DOMAIN = "com.microsoft"
# In 8 bits long blocks are close enough, a quarter faster and 7 % smaller than blocks of 32.
_LONGEST = {4: 32, 8: 128}
_SHORTEST = 16
# Of a smaller table there is little to save.
_MIN_ROWS = 256


def blockwise(proto: onnx.ModelProto, nodes: Iterable[onnx.NodeProto], bits: Bits) -> int:
    """Turn these plain products into products of blocks, in place; return how many."""
    graph = proto.graph
    changed = 0
    for node in list(nodes):
        name = node.input[1]
        size = _block(held(graph)[name].dims[0], bits)
        rows, columns = held(graph)[name].dims
        blocks, scales = _hold(graph, name, weights_of(held(graph)[name]), bits)
        made = helper.make_node(
            "MatMulNBits",
            [node.input[0], blocks, scales],
            node.output,
            name=node.name,
            domain=_DOMAIN,
            K=rows,
            N=columns,
            bits=bits,
            block_size=size,
            accuracy_level=_LEVEL,
        )
        place = list(graph.node).index(node)
        graph.node.remove(node)
        graph.node.insert(place, made)
        changed += 1
    if changed and not any(o.domain == _DOMAIN for o in proto.opset_import):
        proto.opset_import.append(helper.make_opsetid(_DOMAIN, 1))
    return changed


def tables_in_blocks(proto: onnx.ModelProto, bits: Bits) -> int:
    """Gather embeddings from integers, in place; return how many tables.

    A table that is the head, too, is the head's blocks, held once. In 8 bits other tables have a
    scale a row. In 4 bits large ones are gathered from blocks; small ones stay in 8 bits.
    To be called before `blockwise`.
    """
    graph = proto.graph
    changed = 0
    heads = _heads(graph)
    for node in gathers(graph):
        table = node.input[0]
        head = heads.get(table)
        count, width = held(graph)[table].dims
        size = _block(width, bits)
        whole = width % size == 0
        if not whole or (head is None and (bits == 8 or count < _MIN_ROWS)):
            changed += rows_in_int8(graph, [node])
            continue
        values = weights_of(held(graph)[table])
        blocks, scales = _hold(graph, head or table, values.T, bits)
        place = list(graph.node).index(node)
        make = _from_bytes if bits == 8 else _from_halves
        new = make(graph, node, (blocks, scales), (count, width, size))
        graph.node.remove(node)
        for offset, one in enumerate(new):
            graph.node.insert(place + offset, one)
        changed += 1
    if changed and not any(o.domain == _DOMAIN for o in proto.opset_import):
        proto.opset_import.append(helper.make_opsetid(_DOMAIN, 1))
    return changed


def _block(features: int, bits: Bits) -> int:
    size = _LONGEST[bits]
    while size > _SHORTEST and features % size:
        size //= 2
    return size


def _hold(graph: onnx.GraphProto, name: str, weights_KM: Array, bits: Bits) -> tuple[str, str]:
    """Hold (K, M) weights as blocks under a name; return the names of blocks and scales."""
    blocks, scales = f"{name}_blocks{bits}", f"{name}_scales{bits}"
    if blocks in held(graph):
        return blocks, scales
    rows, columns = weights_KM.shape
    size = _block(rows, bits)
    count = -(-rows // size)
    padded = np.pad(weights_KM, ((0, count * size - rows), (0, 0)))
    packed = np.zeros((columns, count, size * bits // 8), np.uint8)
    steps = np.zeros((columns, count), np.float32)
    zeros = np.zeros((columns, -(-count * bits // 8)), np.uint8)
    pack = quantize_matmul_8bits if bits == 8 else quantize_matmul_4bits
    pack(packed, np.ascontiguousarray(padded), steps, zeros, size, columns, rows, True)
    graph.initializer.append(numpy_helper.from_array(packed, blocks))
    graph.initializer.append(numpy_helper.from_array(steps, scales))
    return blocks, scales


def _heads(graph: onnx.GraphProto) -> dict[str, str]:
    """Return the head's weights (K, V) by the table (V, K) that they are, transposed."""
    known = held(graph)
    found: dict[str, str] = {}
    for table in {node.input[0] for node in gathers(graph)}:
        turned = tuple(reversed(known[table].dims))
        for node in graph.node:
            other = known.get(node.input[1]) if node.op_type == "MatMul" else None
            if other is None or tuple(other.dims) != turned:
                continue
            if np.array_equal(weights_of(other), weights_of(known[table]).T):
                found[table] = other.name
    return found


def _from_bytes(
    graph: onnx.GraphProto,
    node: onnx.NodeProto,
    names: tuple[str, str],
    shape: tuple[int, int, int],
) -> list[onnx.NodeProto]:
    """Return nodes of standard operators that gather rows of blocks of bytes around 128."""
    made, ids = node.output[0], node.input[1]
    _, width, _ = shape
    for array, name in (
        (np.float32(128), "middle"),
        (np.array([-1]), "last"),
        (np.array([width]), "width"),
    ):
        graph.initializer.append(numpy_helper.from_array(np.asarray(array), f"{made}_{name}"))
    steps = (
        ("Gather", [names[0], ids], "bytes"),
        ("Cast", [f"{made}_bytes"], "raised"),
        ("Sub", [f"{made}_raised", f"{made}_middle"], "whole"),
        ("Gather", [names[1], ids], "scale"),
        ("Unsqueeze", [f"{made}_scale", f"{made}_last"], "scales"),
        ("Mul", [f"{made}_whole", f"{made}_scales"], "scaled"),
        ("Shape", [ids], "ids"),
        ("Concat", [f"{made}_ids", f"{made}_width"], "shape"),
    )
    new = [
        helper.make_node(op, given, [f"{made}_{result}"], name=f"{made}_{op}_{result}")
        for op, given, result in steps
    ]
    new[1].attribute.append(helper.make_attribute("to", onnx.TensorProto.FLOAT))
    new[7].attribute.append(helper.make_attribute("axis", 0))
    last = [f"{made}_scaled", f"{made}_shape"]
    return [*new, helper.make_node("Reshape", last, [made], name=f"{made}_Reshape")]


def _from_halves(
    graph: onnx.GraphProto,
    node: onnx.NodeProto,
    names: tuple[str, str],
    shape: tuple[int, int, int],
) -> list[onnx.NodeProto]:
    """Return nodes that gather rows of blocks of 4 bits, two in a byte."""
    made, ids = node.output[0], node.input[1]
    count, width, size = shape
    graph.initializer.append(
        numpy_helper.from_array(np.array([count, width // 2]), f"{made}_packed")
    )
    return [
        helper.make_node(
            "Reshape", [names[0], f"{made}_packed"], [f"{made}_rows"], name=f"{made}_Reshape"
        ),
        helper.make_node(
            "GatherBlockQuantized",
            [f"{made}_rows", ids, names[1]],
            [made],
            name=node.name or f"{made}_Gather",
            domain=_DOMAIN,
            bits=4,
            block_size=size,
            gather_axis=0,
            quantize_axis=1,
        ),
    ]
