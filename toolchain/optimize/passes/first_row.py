"""Compute the last block for the first token only, where the head reads nothing else.

Keys and values of the last block are needed for every token; its queries, feed-forward and norms
only for the one the classifier looks at. Works on the layout of `sequence_first`, where the first
tokens of all sequences are the first B rows.

Shapes: B batch, N tokens, D width, H heads, K head width.
"""

from pathlib import Path

import onnx_ir as ir

from toolchain.optimize.attention import HEADS_FIRST, Attention, find_attentions
from toolchain.optimize.graph import (
    Builder,
    ancestors,
    constant,
    held_tensor,
    is_rowwise,
    made_by,
    sole_user,
)
from toolchain.optimize.rewrite import rewritten
from toolchain.optimize.transform import PassFacts

__all__ = ["apply", "rewrite"]


def apply(source: Path, out: Path) -> PassFacts:
    """Write `source` with a shorter last block. Raises what every pass raises."""
    return rewritten(source, out, {"first_row": rewrite})[0]


def rewrite(model: ir.Model) -> int:
    """Move each selection of first rows up through the last block; return how many moved."""
    graph = model.graph
    attentions = find_attentions(graph, HEADS_FIRST)
    changed = 0
    for select in [node for node in graph if _selects_first_rows(node)]:
        selected = select.inputs[0]
        if selected is None or sole_user(selected, "Slice") is None:
            # Something else needs every row: computing some of them twice gains nothing.
            continue
        above = ancestors([selected])
        last = [attention for attention in attentions or () if attention.output in above][-1:]
        if last:
            moved = _Selection(Builder(graph, "first"), select, last[0]).of(selected)
            ir.convenience.replace_all_uses_with(select.outputs[0], moved)
            changed += 1
    return changed


def _selects_first_rows(node: ir.Node) -> bool:
    """Return whether the node is x[:B] as `sequence_first` writes it."""
    if node.op_type != "Slice" or node.domain != "" or len(node.inputs) != 4:
        return False
    start, axes = constant(node.inputs[1]), constant(node.inputs[3])
    counted = made_by(node.inputs[2], "Shape") is not None
    return counted and all(a is not None and a.tolist() == [0] for a in (start, axes))


class _Selection:
    """The first B rows of values, computed from the first B rows of what they come from."""

    def __init__(self, builder: Builder, select: ir.Node, attention: Attention) -> None:
        self._build = builder
        self._select = select
        self._attention = attention
        _, key, value = attention.inputs
        # Computed for all rows in any case: the rows wanted are taken from there.
        self._whole = ancestors([key, value])
        self._done: dict[ir.Value, ir.Value] = {}

    def of(self, value: ir.Value | None) -> ir.Value:
        """Return the first B rows of `value` (N * B, D)."""
        if value is None:
            raise ValueError("an optional input has no rows")
        if value not in self._done:
            self._done[value] = self._made(value)
        return self._done[value]

    def _made(self, value: ir.Value) -> ir.Value:
        node = value.producer()
        if value is self._attention.output:
            return self._attend(self._attention)
        if value in self._whole or node is None or not is_rowwise(node):
            return self._build.again(self._select, [value, *self._select.inputs[1:]])
        held = [held_tensor(given) is not None for given in node.inputs]
        inputs = [v if kept else self.of(v) for v, kept in zip(node.inputs, held, strict=True)]
        return self._build.again(node, inputs)

    def _attend(self, attention: Attention) -> ir.Value:
        """Attend with the queries of the first tokens to the keys and values of all."""
        build = self._build
        one_token = build.integers(1, -1, attention.head_width)
        heads = build.again(attention.split[0], [self.of(attention.inputs[0]), one_token])
        turned = build.again(attention.turn[0], [heads])
        scores = build.again(attention.scores, [turned, attention.scores.inputs[1]])
        if attention.scale is not None:
            scores = build.again(attention.scale, [scores, attention.scale.inputs[1]])
        masked = build.node("Add", [scores, attention.mask])
        weights = build.again(attention.softmax, [masked])
        mixed = build.again(attention.mix, [weights, attention.mix.inputs[1]])
        back = build.again(attention.turn_back, [mixed])
        return build.again(attention.join, [back, attention.join.inputs[1]])
