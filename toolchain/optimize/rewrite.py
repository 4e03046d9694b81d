"""Graph rewrites applied to a file: read once, rewritten in memory, proved, written once."""

from collections.abc import Callable, Mapping
from pathlib import Path

import onnx_ir as ir

from toolchain.onnx_file import read_model, size_of, write_model
from toolchain.optimize.graph import tidy, to_proto
from toolchain.optimize.proof import check_equal
from toolchain.optimize.transform import PassFacts

__all__ = ["Rewrite", "rewritten"]

# Changes the model in place and returns how many places it changed.
Rewrite = Callable[[ir.Model], int]


def rewritten(source: Path, out: Path, rewrites: Mapping[str, Rewrite]) -> tuple[PassFacts, ...]:
    """Apply named rewrites in order and write the result; nothing is written when it is wrong.

    Where none finds anything to change, the source is written again. `out` may be `source`.

    Raises UsageError for a file that is not ONNX, IntegrityError when the outputs moved by more
    than rounding.
    """
    proto = read_model(source)
    model: ir.Model = ir.from_proto(proto)
    facts = []
    result = proto
    after = size_of(result)
    for name, rewrite in rewrites.items():
        nodes, size = len(result.graph.node), after
        changed = rewrite(model)
        if changed:
            tidy(model)
            result = to_proto(model)
            after = size_of(result)
        facts.append(
            PassFacts(
                name=name,
                changed=changed,
                nodes_before=nodes,
                nodes_after=len(result.graph.node),
                bytes_before=size,
                bytes_after=after,
            )
        )
    if result is not proto:
        check_equal(proto, result, where=str(source))
    write_model(result, out)
    return tuple(facts)
