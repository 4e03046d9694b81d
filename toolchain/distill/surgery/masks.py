"""Masks over a whole encoder, the sparsity they are expected to have, and the cut they lead to.

A configuration gives all blocks one number of heads and one inner width, and heads share the
width of the model. So units are ranked over the whole model, and cut to one size per kind.

Shape letters: L blocks, H heads, F inner features of the feed-forward, D hidden features.
"""

from bisect import bisect_left
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from toolchain.distill.surgery.hard_concrete import open_probability, sampled, settled
from toolchain.lazy import lazy
from toolchain.spec import ModelSpec

if TYPE_CHECKING:
    import torch
    from torch import Generator, Tensor
else:
    torch = lazy("torch")

__all__ = ["KINDS", "Cut", "Masks", "best_cut", "drawn", "expected_sparsity", "sizes"]

KINDS = ("attention", "ffn", "heads", "inner", "hidden")
"""What is masked: both halves of a block, heads, inner features, hidden features."""


def sizes(spec: ModelSpec) -> dict[str, tuple[int, ...]]:
    """Return the shape of each kind's masks."""
    L = spec.layers
    shapes = ((L,), (L,), (L, spec.heads), (L, spec.ffn), (spec.width,))
    return dict(zip(KINDS, shapes, strict=True))


@dataclass(frozen=True, kw_only=True)
class Masks:
    """One multiplier per unit. Norms go over `kept_D` alone; `whole` says that those are all."""

    attention_L: "Tensor"
    ffn_L: "Tensor"
    heads_LH: "Tensor"
    inner_LF: "Tensor"
    hidden_D: "Tensor"
    kept_D: "Tensor"
    whole: bool


@dataclass(frozen=True, kw_only=True)
class Cut:
    """What is left: blocks from 0, per block its heads and inner features, hidden features.

    `spec` is the shape of the model that holds just these; `masks` make the whole model compute
    the same.
    """

    spec: ModelSpec
    blocks: tuple[int, ...]
    heads: "Mapping[int, Tensor]"
    inner: "Mapping[int, Tensor]"
    hidden: "Tensor"
    masks: Masks


def drawn(log_alpha: "Mapping[str, Tensor]", generator: "Generator") -> Masks:
    """Draw all masks for one step."""
    gates = {kind: sampled(log_alpha[kind], generator) for kind in KINDS}
    kept = gates["hidden"].detach() > 0
    return _masks(gates, kept)


def expected_sparsity(log_alpha: "Mapping[str, Tensor]", spec: ModelSpec) -> "Tensor":
    """Return the part of the blocks' matrices that is expected to go (CoFi, section 3.1).

    A head counts when its block's attention, itself and the hidden features are open.
    """
    p = {kind: open_probability(log_alpha[kind]) for kind in KINDS}
    attention = 4 * spec.head_width * (p["attention"][:, None] * p["heads"]).sum()
    ffn = 2 * (p["ffn"][:, None] * p["inner"]).sum()
    whole = spec.layers * (4 * spec.query_width + 2 * spec.ffn)
    return 1 - p["hidden"].mean() * (attention + ffn) / whole


def best_cut(log_alpha: "Mapping[str, Tensor]", spec: ModelSpec, sparsity: float) -> Cut:
    """Cut the weakest units over the whole model until its blocks have lost `sparsity`.

    Blocks, inner features and slices of the width are dropped in one order of scores. The j-th
    inner feature scores the mean over blocks of their j-th largest; the j-th slice of the width is
    the j-th head of every block and as many hidden features as a head is wide. Blocks count in
    these means as much as they are open.
    """
    scores = _scores(log_alpha, spec)
    order = _weakest_first(scores)
    left = (1 - sparsity) * spec.layers * spec.block_params()

    def fits(count: int) -> bool:
        shape = _without(spec, order[:count])
        return shape.layers * shape.block_params() <= left

    # Where even the last of each is too much, which `check` refuses, everything else goes.
    count = bisect_left(range(len(order)), True, key=fits)
    return _cut(log_alpha, _without(spec, order[:count]), scores[0])


def _scores(log_alpha: "Mapping[str, Tensor]", spec: ModelSpec) -> "tuple[Tensor, Tensor, Tensor]":
    """Return the scores of blocks (L,), of slices of the width (H,), of inner features (F,)."""
    blocks = torch.maximum(log_alpha["attention"], log_alpha["ffn"])
    heads = _ranked_mean(log_alpha["heads"], log_alpha["attention"])
    inner = _ranked_mean(log_alpha["inner"], log_alpha["ffn"])
    hidden = log_alpha["hidden"].sort(descending=True).values.view(spec.heads, -1).mean(-1)
    return blocks, (heads + hidden) / 2, inner


def _ranked_mean(units: "Tensor", of_block: "Tensor") -> "Tensor":
    weights = of_block.sigmoid()[:, None]
    ranked = units.sort(dim=-1, descending=True).values
    return (weights * ranked).sum(0) / weights.sum().clamp(min=1e-9)


def _weakest_first(scores: "tuple[Tensor, Tensor, Tensor]") -> list[int]:
    """Return the kind (0 blocks, 1 slices of the width, 2 inner features) of each unit to go.

    Equal scores go in proportion: the last part of each kind before the last but one.
    """
    units = []
    for kind, score in enumerate(scores):
        ranked = score.sort(descending=True).values.tolist()
        units += [(x, -(rank + 1) / len(ranked), kind) for rank, x in enumerate(ranked)]
    return [kind for _, _, kind in sorted(units)]


def _without(spec: ModelSpec, gone: list[int]) -> ModelSpec:
    whole = (spec.layers, spec.heads, spec.ffn)
    layers, heads, ffn = (max(1, n - gone.count(kind)) for kind, n in enumerate(whole))
    width = heads * spec.head_width
    return replace(
        spec,
        layers=layers,
        width=width,
        heads=heads,
        kv_heads=heads,
        ffn=ffn,
        embedding_width=width,
    )


def _cut(log_alpha: "Mapping[str, Tensor]", shape: ModelSpec, scores: "Tensor") -> Cut:
    blocks = tuple(sorted(_largest(scores, shape.layers).tolist()))
    heads = {b: _largest(log_alpha["heads"][b], shape.heads) for b in blocks}
    inner = {b: _largest(log_alpha["inner"][b], shape.ffn) for b in blocks}
    hidden = _largest(log_alpha["hidden"], shape.width)
    gates = {kind: torch.zeros_like(log_alpha[kind]) for kind in KINDS}
    for b in blocks:
        for kind in ("attention", "ffn"):
            gates[kind][b] = settled(log_alpha[kind][b])
        if gates["attention"][b] == 0 and gates["ffn"][b] == 0:
            # The last blocks stay though both halves are shut.
            gates["attention"][b] = gates["ffn"][b] = 1
        gates["heads"][b][heads[b]] = settled(log_alpha["heads"][b][heads[b]])
        gates["inner"][b][inner[b]] = settled(log_alpha["inner"][b][inner[b]])
    gates["hidden"][hidden] = settled(log_alpha["hidden"][hidden])
    kept = torch.zeros_like(gates["hidden"], dtype=torch.bool)
    kept[hidden] = True
    masks = _masks(gates, kept)
    return Cut(spec=shape, blocks=blocks, heads=heads, inner=inner, hidden=hidden, masks=masks)


def _largest(scores: "Tensor", count: int) -> "Tensor":
    """Return the positions of the `count` largest scores, ascending."""
    return scores.topk(count).indices.sort().values


def _masks(gates: "Mapping[str, Tensor]", kept: "Tensor") -> Masks:
    return Masks(
        attention_L=gates["attention"],
        ffn_L=gates["ffn"],
        heads_LH=gates["heads"],
        inner_LF=gates["inner"],
        hidden_D=gates["hidden"],
        kept_D=kept,
        whole=bool(kept.all()),
    )
