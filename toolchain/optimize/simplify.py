"""All graph rewrites that were measured to help, in the one order in which they work."""

from pathlib import Path

from toolchain.optimize.passes import additive_mask, first_row, sequence_first, tied_head
from toolchain.optimize.rewrite import rewritten
from toolchain.optimize.transform import PassFacts

__all__ = ["simplify"]


def simplify(source: Path, out: Path) -> tuple[PassFacts, ...]:
    """Write a faster graph that computes the same; a rewrite that does not fit changes nothing.

    `sequence_first` needs the mask of `additive_mask`, `first_row` the layout of
    `sequence_first`. Only standard ONNX ops are used. Raises UsageError for a file that is not
    ONNX, IntegrityError when the outputs moved by more than rounding.
    """
    return rewritten(
        source,
        out,
        {
            "additive_mask": additive_mask.rewrite,
            "sequence_first": sequence_first.rewrite,
            "first_row": first_row.rewrite,
            "tied_head": tied_head.rewrite,
        },
    )
