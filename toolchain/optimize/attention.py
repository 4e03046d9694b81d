"""Self-attention found in a graph: what every pass that reshapes or shortens it needs to know.

Shapes: B batch, N tokens, D width, H heads, K head width.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import onnx_ir as ir

from toolchain.optimize.graph import constant, held_tensor, made_by, sole_user

__all__ = [
    "HEADS_FIRST",
    "HEADS_SECOND",
    "Attention",
    "Layout",
    "find_attentions",
    "row_mask",
]


@dataclass(frozen=True, kw_only=True)
class Layout:
    """How heads are laid out: the permutations of queries (and values, and the way back), keys."""

    rows: tuple[int, ...]
    keys: tuple[int, ...]


# As tracers write it: (B, N, H, K) to (B, H, N, K), and keys to (B, H, K, N).
HEADS_SECOND = Layout(rows=(0, 2, 1, 3), keys=(0, 2, 3, 1))
# As `sequence_first` writes it: (N, B * H, K) to (B * H, N, K), and keys to (B * H, K, N).
HEADS_FIRST = Layout(rows=(1, 0, 2), keys=(1, 2, 0))


@dataclass(frozen=True, kw_only=True, eq=False)
class Attention:
    """One self-attention: projections split into heads, scaled, masked, mixed, joined again.

    `split` and `turn` are the Reshape and Transpose of queries, keys and values; `scores`,
    `scale` (None when the factor lies elsewhere), `add`, `softmax` and `mix` follow one another;
    `turn_back` and `join` lead to rows of width D.
    """

    split: tuple[ir.Node, ir.Node, ir.Node]
    turn: tuple[ir.Node, ir.Node, ir.Node]
    scores: ir.Node
    scale: ir.Node | None
    add: ir.Node
    mask: ir.Value
    softmax: ir.Node
    mix: ir.Node
    turn_back: ir.Node
    join: ir.Node
    heads: int
    head_width: int

    @property
    def inputs(self) -> tuple[ir.Value, ir.Value, ir.Value]:
        """Projected queries, keys and values before they are split, (..., D)."""
        query, key, value = (_input(node, 0) for node in self.split)
        return query, key, value

    @property
    def output(self) -> ir.Value:
        """The mixed values joined again, (..., D)."""
        return self.join.outputs[0]

    @property
    def nodes(self) -> tuple[ir.Node, ...]:
        """Every node of it."""
        scale = () if self.scale is None else (self.scale,)
        chain = (self.scores, *scale, self.add, self.softmax, self.mix, self.turn_back, self.join)
        return (*self.split, *self.turn, *chain)


def find_attentions(graph: ir.Graph, layout: Layout) -> list[Attention] | None:
    """Return every attention in graph order; None when some Softmax is not part of one."""
    softmaxes = [node for node in graph if node.op_type == "Softmax" and node.domain == ""]
    found = [_match(node, layout) for node in softmaxes]
    whole = [attention for attention in found if attention is not None]
    return whole if len(whole) == len(found) else None


def row_mask(mask: ir.Value) -> ir.Value | None:
    """Return the (B, N) bias whose (B, 1, 1, N) view `mask` is, or None."""
    node = made_by(mask, "Unsqueeze")
    axes = constant(node.inputs[1]) if node is not None else None
    if node is None or axes is None or axes.tolist() != [1, 2]:
        return None
    return node.inputs[0]


def _input(node: ir.Node, index: int) -> ir.Value:
    value = node.inputs[index]
    if value is None:
        raise ValueError(f"{node.op_type} {node.name!r} lacks input {index}")
    return value


def _match(softmax: ir.Node, layout: Layout) -> Attention | None:
    axis = softmax.attributes.get("axis")
    add = made_by(softmax.inputs[0], "Add")
    mix = sole_user(softmax.outputs[0], "MatMul")
    if add is None or mix is None or (axis is not None and axis.as_int() != -1):
        return None
    scored = _scores(add)
    turn_back = sole_user(mix.outputs[0], "Transpose")
    join = sole_user(turn_back.outputs[0], "Reshape") if turn_back is not None else None
    if scored is None or turn_back is None or join is None or _perm(turn_back) != layout.rows:
        return None
    scores, scale, mask = scored
    heads = [
        _head(scores.inputs[0], layout.rows),
        _head(scores.inputs[1], layout.keys),
        _head(mix.inputs[1], layout.rows),
    ]
    (query, key, value) = heads
    if query is None or key is None or value is None:
        return None
    head_width = _last(key[0].inputs[1])
    width = _width(key[0].inputs[0])
    if head_width is None or width is None or width % head_width:
        return None
    return Attention(
        split=(query[0], key[0], value[0]),
        turn=(query[1], key[1], value[1]),
        scores=scores,
        scale=scale,
        add=add,
        mask=mask,
        softmax=softmax,
        mix=mix,
        turn_back=turn_back,
        join=join,
        heads=width // head_width,
        head_width=head_width,
    )


def _scores(add: ir.Node) -> tuple[ir.Node, ir.Node | None, ir.Value] | None:
    for index in (0, 1):
        value, mask = _input(add, index), _input(add, 1 - index)
        scale = made_by(value, "Mul", "Div")
        if scale is not None:
            factor = held_tensor(scale.inputs[1])
            if factor is None or factor.size != 1:
                continue
            value = _input(scale, 0)
        scores = made_by(value, "MatMul")
        if scores is not None and made_by(scores.inputs[0], "Transpose") is not None:
            return scores, scale, mask
    return None


def _head(value: ir.Value | None, perm: Sequence[int]) -> tuple[ir.Node, ir.Node] | None:
    turn = made_by(value, "Transpose")
    if turn is None or _perm(turn) != perm:
        return None
    split = made_by(turn.inputs[0], "Reshape")
    return None if split is None else (split, turn)


def _perm(node: ir.Node) -> tuple[int, ...]:
    attribute = node.attributes.get("perm")
    return tuple(attribute.as_ints()) if attribute is not None else ()


def _last(shape: ir.Value | None) -> int | None:
    """Return the size of the last axis that a Reshape is told, where the file says it."""
    join = made_by(shape, "Concat")
    held = constant(join.inputs[-1] if join is not None else shape)
    return int(held[-1]) if held is not None and held.size and held[-1] > 0 else None


def _width(value: ir.Value | None) -> int | None:
    """Return the last axis of a projection's output, read from its weights."""
    node = made_by(value, "Add", "MatMul")
    if node is None:
        return None
    for tensor in map(held_tensor, node.inputs):
        if tensor is not None and len(tensor.shape):
            return int(tensor.shape.numpy()[-1])
    return None
