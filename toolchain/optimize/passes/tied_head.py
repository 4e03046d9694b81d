"""Hold a table once that is both the token embeddings and, transposed, the language head.

Tracers fold the transposition away and leave two copies, which doubles the file of a small model.
A runtime folds it again when it loads the file.

Shapes: V vocabulary, D width.
"""

from pathlib import Path

import numpy as np
import onnx_ir as ir

from toolchain.optimize.graph import Builder, held_tensor
from toolchain.optimize.rewrite import rewritten
from toolchain.optimize.transform import PassFacts

__all__ = ["apply", "rewrite"]


def apply(source: Path, out: Path) -> PassFacts:
    """Write `source` with its tied tables held once. Raises what every pass raises."""
    return rewritten(source, out, {"tied_head": rewrite})[0]


def rewrite(model: ir.Model) -> int:
    """Make each head that is a gathered table transposed read that table; return how many."""
    graph = model.graph
    tables = [
        value
        for node in graph
        if node.op_type == "Gather" and node.domain == ""
        if (value := node.inputs[0]) is not None and _is_table(value)
    ]
    changed = 0
    for node in [node for node in graph if node.op_type == "MatMul" and node.domain == ""]:
        head = node.inputs[1]
        table = _untransposed(head, tables)
        if head is None or table is None:
            continue
        turned = Builder(graph, "tied").node("Transpose", [table], [ir.AttrInt64s("perm", [1, 0])])
        ir.convenience.replace_all_uses_with(head, turned)
        changed += 1
    return changed


def _is_table(value: ir.Value) -> bool:
    held = held_tensor(value)
    return held is not None and len(held.shape) == 2


def _untransposed(head: ir.Value | None, tables: list[ir.Value]) -> ir.Value | None:
    """Return the table (V, D) whose transpose (D, V) `head` holds, or None."""
    held = held_tensor(head)
    if held is None or len(held.shape) != 2:
        return None
    for table in tables:
        other = held_tensor(table)
        # Numbers are read where shapes agree alone: a table may hold gigabytes.
        if other is None or tuple(other.shape) != tuple(reversed(held.shape)):
            continue
        if np.array_equal(other.numpy().T, held.numpy()):
            return table
    return None
