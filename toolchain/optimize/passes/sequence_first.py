"""Lay tokens out sequence first, as one matrix of rows, so that attention needs no transposes.

Between the embeddings and the head, (B, N, D) becomes (N * B, D), row n * B + b. Heads are then a
view (N, B * H, K), which a runtime's strided MatMul reads as it lies; with the batch first every
query, key and value is copied into place. Rows as a matrix also keep ONNX Runtime from fusing
residuals into SkipLayerNormalization, whose CPU kernel is several times slower than the two ops.

Shapes: B batch, N tokens, D width, H heads, K head width.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import onnx_ir as ir

from toolchain.optimize.attention import (
    HEADS_FIRST,
    HEADS_SECOND,
    Attention,
    Layout,
    find_attentions,
    row_mask,
)
from toolchain.optimize.graph import Builder, constant, held_tensor, is_rowwise, made_by
from toolchain.optimize.rewrite import rewritten
from toolchain.optimize.transform import PassFacts

__all__ = ["apply", "rewrite"]


@dataclass(frozen=True, kw_only=True)
class _Region:
    """What changes its layout: from `start` (B, N, D) to the selections of the first token."""

    start: ir.Value
    attentions: Sequence[Attention]
    bias: ir.Value
    firsts: Sequence[ir.Node]


def apply(source: Path, out: Path) -> PassFacts:
    """Write `source` with its tokens sequence first. Raises what every pass raises."""
    return rewritten(source, out, {"sequence_first": rewrite})[0]


def rewrite(model: ir.Model) -> int:
    """Change the layout of the encoder; return the number of its attentions (0: left as it is).

    The graph is left alone unless every node in between is understood.
    """
    region = _region(model.graph)
    if region is None:
        return 0
    builder = Builder(model.graph, "rows")
    batch = builder.node("Shape", [region.bias], [_int("start", 0), _int("end", 1)])
    tokens = builder.node("Shape", [region.bias], [_int("start", 1), _int("end", 2)])
    _enter(builder, region.start)
    for attention in region.attentions:
        _turn(attention, HEADS_FIRST)
    _share_shapes(builder, region, tokens)
    zero = builder.integers(0)
    for node in region.firsts:
        rows = builder.node("Slice", [node.inputs[0], zero, batch, zero])
        ir.convenience.replace_all_uses_with(node.outputs[0], rows)
    return len(region.attentions)


def _int(name: str, value: int) -> ir.Attr:
    return ir.AttrInt64(name, value)


def _enter(builder: Builder, start: ir.Value) -> None:
    width = builder.node("Shape", [start], [_int("start", 2), _int("end", 3)])
    users = [(use.node, use.idx) for use in start.uses() if use.node is not width.producer()]
    turned = builder.node("Transpose", [start], [ir.AttrInt64s("perm", [1, 0, 2])])
    flat = builder.node("Concat", [builder.integers(-1), width], [_int("axis", 0)])
    rows = builder.node("Reshape", [turned, flat])
    for node, index in users:
        node.replace_input_with(index, rows)


def _turn(attention: Attention, layout: Layout) -> None:
    query, key, value = attention.turn
    for node in (query, value, attention.turn_back):
        node.attributes["perm"] = ir.AttrInt64s("perm", layout.rows)
    key.attributes["perm"] = ir.AttrInt64s("perm", layout.keys)


def _share_shapes(builder: Builder, region: _Region, tokens: ir.Value) -> None:
    """Point every Reshape at the new shapes, each computed once per run."""
    any_ = builder.integers(-1)
    axis = [_int("axis", 0)]
    split: dict[int, ir.Value] = {}
    join: dict[int, ir.Value] = {}
    bias: dict[int, ir.Value] = {}
    for attention in region.attentions:
        heads, head_width = attention.heads, attention.head_width
        width = heads * head_width
        if head_width not in split:
            shape = [tokens, any_, builder.integers(head_width)]
            split[head_width] = builder.node("Concat", shape, axis)
        if width not in join:
            join[width] = builder.integers(-1, width)
        if heads not in bias:
            bias[heads] = _bias_of_heads(builder, region.bias, tokens, heads)
        for node in attention.split:
            _reshape(node, split[head_width])
        _reshape(attention.join, join[width])
        index = list(attention.add.inputs).index(attention.mask)
        attention.add.replace_input_with(index, bias[heads])


def _reshape(node: ir.Node, shape: ir.Value) -> None:
    node.replace_input_with(1, shape)
    node.attributes.pop("allowzero", None)


def _bias_of_heads(builder: Builder, bias: ir.Value, tokens: ir.Value, heads: int) -> ir.Value:
    """Return the (B, N) bias as (B * H, 1, N), each row repeated for its heads."""
    apart = builder.node("Unsqueeze", [bias, builder.integers(1)])
    repeated = builder.node("Expand", [apart, builder.integers(1, heads, 1)])
    shape = builder.node("Concat", [builder.integers(-1, 1), tokens], [_int("axis", 0)])
    return builder.node("Reshape", [repeated, shape])


def _region(graph: ir.Graph) -> _Region | None:
    attentions = find_attentions(graph, HEADS_SECOND)
    if not attentions:
        return None
    biases = {row_mask(attention.mask) for attention in attentions}
    start = _common_source(attentions[0])
    bias = biases.pop()
    if biases or bias is None or start is None:
        return None
    firsts = _walk(graph, start, attentions)
    if firsts is None:
        return None
    return _Region(start=start, attentions=attentions, bias=bias, firsts=firsts)


def _common_source(attention: Attention) -> ir.Value | None:
    """Return the value that queries, keys and values are all projected from."""
    sources = set()
    for value in attention.inputs:
        biased = made_by(value, "Add")
        operands = [v for v in biased.inputs if held_tensor(v) is None] if biased else [value]
        project = made_by(operands[0], "MatMul") if len(operands) == 1 else None
        sources.add(project.inputs[0] if project is not None else None)
    return sources.pop() if len(sources) == 1 else None


def _walk(
    graph: ir.Graph, start: ir.Value, attentions: Sequence[Attention]
) -> list[ir.Node] | None:
    """Follow the rows from `start`; return the selections they end in, None if not understood."""
    inner = {node: attention for attention in attentions for node in attention.nodes}
    rows = {start}
    firsts: list[ir.Node] = []
    for node in graph:
        if node in inner:
            if node is inner[node].join:
                if not all(value in rows for value in inner[node].inputs):
                    return None
                rows.add(node.outputs[0])
            continue
        read = [value for value in node.inputs if value in rows]
        if not read:
            continue
        if _is_first_token(node):
            firsts.append(node)
            continue
        known = [value for value in node.inputs if value in rows or held_tensor(value) is not None]
        if not is_rowwise(node) or len(known) != len(node.inputs):
            return None
        rows.add(node.outputs[0])
    if not firsts or any(value.is_graph_output() for value in rows):
        return None
    return firsts


def _is_first_token(node: ir.Node) -> bool:
    """Return whether the node is x[:, 0]."""
    if node.op_type != "Gather" or node.domain != "":
        return False
    axis = node.attributes.get("axis")
    index = constant(node.inputs[1])
    at_one = axis is not None and axis.as_int() == 1
    return at_one and index is not None and index.ndim == 0 and int(index) == 0
