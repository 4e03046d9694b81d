"""Angles of triples: at one vector, between the directions to two others.

Vectors come in groups, and triples stay within one: a sequence's tokens, a token's layers, the
sequences of a batch. Which triples count is decided here, their cosines are those of `triples`.

Shape letters: B batch, N tokens, D width, L layers, R vertices, K others per vertex, H heads,
M vectors in all, P places of a group, G groups.
"""

import dataclasses
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal

from toolchain.distill.context import Context
from toolchain.distill.objectives.objective import Objective, at_least_fp32
from toolchain.distill.reduction import REDUCTIONS, Reduction
from toolchain.distill.shapes import SPAN, Footprint, Positions, Shape, Unfit
from toolchain.lazy import lazy

if TYPE_CHECKING:
    import torch
    from torch import Tensor
    from torch.nn import Module

    from toolchain.distill.objectives import triples
else:
    torch = lazy("torch")
    triples = lazy("toolchain.distill.objectives.triples")

__all__ = ["GuidedAngles", "LayerAngles", "SampleAngles", "WindowAngles"]

Distance = Literal["squared", "huber"]
# Numbers in one tensor of a piece, where vectors are gathered for every vertex.
_PIECE = 1 << 21
# Triples of all vertices that are held at once rather than visited pair by pair.
AT_ONCE = 1 << 16
# How many times as many places as partners may be visited.
_CLOSE = 2


def _split(values: "Tensor", axes: int) -> "Tensor":
    """Return vectors (..., H, W) of a tensor whose first `axes` axes count vectors."""
    wide = at_least_fp32(values)
    return wide if wide.ndim > axes + 1 else wide.unsqueeze(-2)


class _Angles(Objective):
    """Base: nothing but heads must agree, so widths are free."""

    rowwise: ClassVar[bool] = False
    positions: ClassVar[tuple[Positions, ...]] = ("tok",)
    stacked: ClassVar[bool] = False

    def _check(self, student: Shape, teacher: Shape) -> None:
        if student.positions not in self.positions or not student.features:
            raise Unfit(
                f"{self.key} takes angles between {' or '.join(self.positions)} vectors, "
                f"found {student.positions!r}",
                "extract hidden states; pool them for cls vectors",
            )
        if bool(student.layers) != self.stacked:
            wanted = "all_layers_stacked" if self.stacked else "uniform"
            raise Unfit(f"{self.key} does not fit this matching", f"use match: {wanted}")
        if student.split != teacher.split:
            raise Unfit("both sides need the same heads", "transform: [split_heads]")

    def default_reduction(self, shape: Shape) -> Reduction:
        """Return the mean over what its vertices stand for."""
        return REDUCTIONS[f"mean_{self.yields(shape)}"]


@dataclass(frozen=True)
class SampleAngles(_Angles):
    """Huber distance of the cosines of all triples of pooled sequences (B, D), mean per vertex.

    RKD (arXiv 1904.05068), MGSKD's sample term. Triples with equal members count with
    angle 0, as in RKD's code. Triples are those of one micro-batch.
    """

    key: ClassVar[str] = "rkd_angle"
    across: ClassVar[bool] = True
    positions: ClassVar[tuple[Positions, ...]] = ("cls",)
    distance: Distance = "huber"

    def resolve(self, student: Shape, teacher: Shape) -> "SampleAngles":
        """Require pooled vectors."""
        self._check(student, teacher)
        return self

    def memory(self, student: Shape, teacher: Shape, batch: int, tokens: int) -> Footprint:  # noqa: ARG002
        """Return the bytes of every sequence with every sequence."""
        return of_all(student, teacher, 1, batch)

    def __call__(
        self,
        student: "Tensor",
        teacher: "Tensor",
        context: Context,  # noqa: ARG002
        module: "Module | None" = None,  # noqa: ARG002
    ) -> "Tensor":
        """(B, F) or (B, R, K) twice -> (B,)."""
        s, t = (_split(side, 1).unsqueeze(0) for side in (student, teacher))
        return triples.at_all(s, t, None, self.distance)[0]


@dataclass(frozen=True)
class WindowAngles(_Angles):
    """Angles at each token between the tokens of a window around it (CKD, arXiv 2109.08359).

    Neighbours outside the sequence and padding are left out, never clamped; two neighbours differ
    and neither is the token itself. In causal models the window looks back only. Mean per token.
    """

    key: ClassVar[str] = "angles_window"
    window: int = 21
    distance: Distance = "squared"

    def resolve(self, student: Shape, teacher: Shape) -> "WindowAngles":
        """Require token vectors."""
        self._check(student, teacher)
        return self

    def memory(self, student: Shape, teacher: Shape, batch: int, tokens: int) -> Footprint:
        """Return the bytes of every token with its window."""
        if self._is_all(tokens):
            return of_all(student, teacher, batch, tokens)
        return of_near(student, teacher, batch, tokens, 2 * (self.window // 2) + 1)

    def __call__(
        self,
        student: "Tensor",
        teacher: "Tensor",
        context: Context,
        module: "Module | None" = None,  # noqa: ARG002
    ) -> "Tensor":
        """(B, N, F) or (B, N, R, K) twice -> (B, N)."""
        s, t = (_split(side, 2) for side in (student, teacher))
        real_NB = context.mask_BN.bool().T
        place = torch.arange(len(real_NB), device=real_NB.device)
        if self._is_all(len(real_NB)):
            away_NN = place[:, None] - place
            near_NN = (away_NN != 0) & (away_NN.abs() <= self.window // 2)
            near_NN &= away_NN < 0 if context.causal else near_NN
            valid_NNB = near_NN[:, :, None] & real_NB[:, None] & real_NB
            return triples.at_all(s, t, valid_NNB, self.distance)
        half = self.window // 2
        away_K = torch.arange(-half, half + 1, device=real_NB.device)
        near_KN = away_K[:, None] + place
        inside = (near_KN >= 0) & (near_KN < len(real_NB))
        inside &= (away_K < 0 if context.causal else away_K != 0)[:, None]
        other_KNB = real_NB[near_KN.clamp(0, len(real_NB) - 1)]
        valid_KNB = inside[:, :, None] & other_KNB & real_NB
        return triples.at_near(s, t, real_NB.T, valid_KNB.transpose(1, 2), self.distance)

    def _is_all(self, tokens: int) -> bool:
        """Whether a window is no shorter than the longest sequence, or has no neighbours."""
        return tokens <= self.window or self.window < 2


@dataclass(frozen=True)
class LayerAngles(_Angles):
    """Angles at each layer between all other layers, token by token (CKD, arXiv 2109.08359).

    On stacked layers (B, N, L, D); mean over layers, one value per token.
    """

    key: ClassVar[str] = "angles_layers"
    stacked: ClassVar[bool] = True
    distance: Distance = "squared"

    def resolve(self, student: Shape, teacher: Shape) -> "LayerAngles":
        """Require stacked layers."""
        self._check(student, teacher)
        return self

    def memory(self, student: Shape, teacher: Shape, batch: int, tokens: int) -> Footprint:
        """Return the bytes of every layer at every token with all layers."""
        return of_all(student, teacher, batch * tokens, student.layers or 1)

    def __call__(
        self,
        student: "Tensor",
        teacher: "Tensor",
        context: Context,  # noqa: ARG002
        module: "Module | None" = None,  # noqa: ARG002
    ) -> "Tensor":
        """(B, N, L, F) twice -> (B, N)."""
        B, N, L = student.shape[:3]
        s, t = (_split(side.flatten(0, 1), 2) for side in (student, teacher))
        other_LL1 = ~torch.eye(L, dtype=torch.bool, device=student.device).unsqueeze(-1)
        values = triples.at_all(s, t, other_LL1.expand(-1, -1, B * N), self.distance)
        return values.view(B, N, L).mean(-1)


@dataclass(frozen=True)
class GuidedAngles(_Angles):
    """Angles at the tokens (or spans) that the teacher attends to most (MGSKD, ACL 2022).

    `vertices` are those that receive most attention from all others, in the mean over heads; the
    `partners` of each are those it gives most attention to. The choice is the teacher's for both
    sides. Mean over triples of each vertex, then over vertices: one value per sequence.
    """

    key: ClassVar[str] = "angles_guided"
    guide: ClassVar[str] = "attn_probs"
    positions: ClassVar[tuple[Positions, ...]] = ("tok", "span")
    vertices: int = 20
    partners: int = 20
    distance: Distance = "huber"
    spans: bool = False

    def resolve(self, student: Shape, teacher: Shape) -> "GuidedAngles":
        """Require tokens or spans."""
        self._check(student, teacher)
        return dataclasses.replace(self, spans=student.positions == "span")

    def yields(self, shape: Shape) -> Positions:  # noqa: ARG002
        """Return that it gives one value per sequence."""
        return "cls"

    def memory(self, student: Shape, teacher: Shape, batch: int, tokens: int) -> Footprint:
        """Return the bytes of the chosen tokens or spans."""
        places = -(-tokens // SPAN) if student.positions == "span" else tokens
        if self._is_all(places):
            return of_all(student, teacher, batch, places)
        if self._is_close(places):
            return of_some(student, teacher, batch, places, self.vertices)
        vertices, partners = min(self.vertices, places), min(self.partners, places)
        return of_chosen(student, teacher, batch * vertices, partners, batch * places)

    def __call__(
        self,
        student: "Tensor",
        teacher: "Tensor",
        context: Context,
        module: "Module | None" = None,  # noqa: ARG002
    ) -> "Tensor":
        """(B, N, F) or (B, N, R, K) twice -> (B,)."""
        around = context.of_spans() if self.spans else context
        s, t = (_split(side, 2) for side in (student, teacher))
        pairs_BNN = around.pairs_BNN
        N = pairs_BNN.shape[-1]
        pairs_BNN = pairs_BNN & ~torch.eye(N, dtype=torch.bool, device=pairs_BNN.device)
        if self._is_all(N):
            values_BR = triples.at_all(s, t, pairs_BNN.permute(2, 1, 0), self.distance)
            counted_BR = pairs_BNN.sum(-1) > 1
        elif self._is_close(N):
            vertex_BV, partners = self._chosen(around, pairs_BNN)
            valid_BVN = torch.zeros_like(pairs_BNN[:, : vertex_BV.shape[1]])
            valid_BVN.scatter_(2, partners.indices, partners.values >= 0)
            values_BR = triples.at_some(s, t, vertex_BV, valid_BVN.permute(2, 1, 0), self.distance)
            counted_BR = valid_BVN.sum(-1) > 1
        else:
            vertex_BV, partners = self._chosen(around, pairs_BNN)
            first_B1 = torch.arange(len(s), device=s.device)[:, None] * N
            vertex_R = (first_B1 + vertex_BV).flatten()
            others_RK = (first_B1[:, :, None] + partners.indices).flatten(0, 1)
            valid_RK = (partners.values >= 0).flatten(0, 1)
            flat = s.flatten(0, 1), t.flatten(0, 1)
            values = triples.at_chosen(*flat, vertex_R, others_RK, valid_RK, self.distance)
            counted_BR = (valid_RK.sum(-1) > 1).view(len(s), -1)
            values_BR = values.view_as(counted_BR)
        return values_BR.sum(-1) / counted_BR.sum(-1).clamp(min=1)

    def chooses(self, tokens: int) -> bool:
        """Return whether there are more tokens or spans than are taken."""
        return not self._is_all(-(-tokens // SPAN) if self.spans else tokens)

    def _is_all(self, places: int) -> bool:
        """Whether there is nothing to choose."""
        return places <= min(self.vertices, self.partners)

    def _is_close(self, places: int) -> bool:
        """Whether leaving pairs out is cheaper than gathering those that count (measured)."""
        return places <= _CLOSE * min(self.vertices, self.partners)

    def _chosen(
        self, around: Context, pairs_BNN: "Tensor"
    ) -> "tuple[Tensor, torch.return_types.topk]":
        """Return vertices (B, V) and their partners (B, V, K); values below 0 do not count."""
        assert around.guide is not None
        N = around.mask_BN.shape[1]
        given_BNN = around.guide.mean(1).masked_fill(~pairs_BNN, -1.0)
        received_BN = given_BNN.clamp(min=0).sum(1).masked_fill(~around.mask_BN.bool(), -1.0)
        vertex_BV = received_BN.topk(min(self.vertices, N)).indices
        rows = vertex_BV[:, :, None].expand(-1, -1, N)
        return vertex_BV, given_BNN.gather(1, rows).topk(min(self.partners, N))


def piece_of(others: int, width: int) -> int:
    """Return how many vertices one piece has, of `others` vectors of that width each."""
    return max(1, _PIECE // (others * width))


def of_all(student: Shape, teacher: Shape, groups: int, places: int) -> Footprint:
    """Return the bytes of `triples.at_all`, for so many groups of vectors."""
    heads = student.split or 1
    vectors, others = (4 * groups * places * heads * (x.features or 1) for x in (student, teacher))
    pairs = 4 * groups * places**2 * heads
    triples = places * pairs
    if triples <= 4 * AT_ONCE:
        return Footprint(vectors + 8 * pairs + 5 * triples, 2 * others + 3 * triples)
    return Footprint(vectors + 8 * pairs, 2 * others + 7 * pairs)


def of_some(student: Shape, teacher: Shape, groups: int, places: int, vertices: int) -> Footprint:
    """Return the bytes of `triples.at_some`, for so many vertices of every group."""
    heads = student.split or 1
    vectors, others = (4 * groups * places * heads * (x.features or 1) for x in (student, teacher))
    squares, pairs = (4 * groups * places * heads * n for n in (places, vertices))
    return Footprint(vectors + 2 * squares + 6 * pairs, 2 * others + squares + 6 * pairs)


def of_near(student: Shape, teacher: Shape, batch: int, tokens: int, window: int) -> Footprint:
    """Return the bytes of `triples.at_near`, for windows of so many places.

    Blocks of tokens are held once as they are and twice with their neighbours.
    """
    heads = student.split or 1
    rows = -(-(tokens + window - 1) // (window - 1)) * (window - 1)
    vectors, others = (4 * batch * rows * heads * (x.features or 1) for x in (student, teacher))
    pairs = 4 * batch * rows * heads * window
    return Footprint(4 * vectors + 6 * pairs, max(3 * vectors, 4 * others) + 6 * pairs)


def of_chosen(
    student: Shape, teacher: Shape, vertices: int, others: int, vectors: int
) -> Footprint:
    """Return the bytes of `triples.at_chosen`, for so many vertices, others and vectors in all.

    More than a piece of gathered vectors and cosines is never held; the gradient of pieces takes
    two tensors of the student's size.
    """
    heads, width = student.split or 1, student.features or 1
    step = min(vertices, piece_of(others, heads * max(width, others)))
    own, other = (4 * step * others * heads * (x.features or 1) for x in (student, teacher))
    pairs = 4 * step * heads * others**2
    held, spare = own + 2 * pairs, 2 * max(own, other) + 2 * pairs
    if step == vertices:
        return Footprint(held, spare)
    return Footprint(0, held + spare + 2 * 4 * vectors * heads * width)
