"""What a graph computes that int8 stores in bytes: its products and tables, and what they see.

The weights of a graph have lost their names by the time it is rewritten, so a product is told by
the matrix it multiplies by.

Shape letters: N tokens, D inputs, O outputs, V rows of a table.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
from numpy.typing import NDArray

from toolchain.errors import UsageError
from toolchain.onnx_file import read_model
from toolchain.optimize.opened import opened

__all__ = ["Multiplies", "Reads", "read_products"]

_TOKENS = 5


@dataclass(frozen=True, kw_only=True)
class Multiplies:
    """A product with a matrix (D, O); `first` where it reads one token of a sequence, not all."""

    matrix: NDArray[np.float32]
    first: bool


@dataclass(frozen=True, kw_only=True)
class Reads:
    """The products of a graph, and the tables (V, D) it looks rows up in."""

    products: tuple[Multiplies, ...]
    tables: tuple[NDArray[np.float32], ...]


def read_products(path: Path) -> Reads:
    """Read an fp32 .onnx file and run it on one row, to see what each product is given.

    Raises UsageError for a product that is given neither all tokens nor one.
    """
    proto = read_model(path)
    held = {t.name: onnx.numpy_helper.to_array(t) for t in proto.graph.initializer}
    for node in proto.graph.node:
        if node.op_type == "Transpose" and node.input[0] in held:
            perm = next((list(a.ints) for a in node.attribute if a.name == "perm"), None)
            held[node.output[0]] = held[node.input[0]].transpose(perm)
    found = list(_products(proto.graph, held))
    rows = _rows_given(proto, list(dict.fromkeys(given for given, _ in found)))
    unknown = {count for count in rows.values() if count not in (1, _TOKENS)}
    if unknown:
        raise UsageError(
            f"{path}: a matrix product is given {unknown.pop()} rows for {_TOKENS} tokens"
        )
    return Reads(
        products=tuple(
            Multiplies(matrix=matrix, first=rows[given] == 1) for given, matrix in found
        ),
        tables=tuple(
            held[node.input[0]]
            for node in proto.graph.node
            if node.op_type == "Gather"
            and node.input[0] in held
            and held[node.input[0]].dtype == np.float32
        ),
    )


def _products(
    graph: onnx.GraphProto, held: dict[str, NDArray[np.float32]]
) -> Iterator[tuple[str, NDArray[np.float32]]]:
    """Yield what each product with a matrix of the file is given, and the matrix (D, O)."""
    for node in graph.node:
        if node.op_type not in ("Gemm", "MatMul") or len(node.input) < 2:
            continue
        matrix = held.get(node.input[1])
        if matrix is None or matrix.ndim != 2:
            continue
        turned = any(a.name == "transB" and a.i for a in node.attribute)
        yield node.input[0], matrix.T if turned else matrix


def _rows_given(proto: onnx.ModelProto, names: list[str]) -> dict[str, int]:
    """Return how many rows each of these values has when the graph reads one text."""
    watched = onnx.ModelProto()
    watched.CopyFrom(proto)
    del watched.graph.output[:]
    watched.graph.output.extend(onnx.ValueInfoProto(name=name) for name in names)
    session = opened(watched)
    ones = np.ones((1, _TOKENS), dtype=np.int64)
    feed = {
        node.name: ones if node.name == "attention_mask" else np.zeros_like(ones)
        for node in session.get_inputs()
    }
    values = session.run(names, feed)
    return {n: int(np.prod(v.shape[:-1])) for n, v in zip(names, values, strict=True)}
