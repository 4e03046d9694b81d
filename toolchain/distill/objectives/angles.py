"""Angles of triples: at one vector, between the directions to two others.

A triple costs a product of two vectors, so triples are compared in pieces that are computed again
in the backward pass: never more than some millions of numbers exist at once. Differences are taken
directly, not from inner products, so that equal vectors have no direction and no gradient.

Shape letters: B batch, N tokens, D width, L layers, R vertices, K others per vertex, H heads,
M vectors in all.
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
    from torch.utils import checkpoint
else:
    torch = lazy("torch")
    checkpoint = lazy("torch.utils.checkpoint")

__all__ = ["GuidedAngles", "LayerAngles", "SampleAngles", "WindowAngles"]

Distance = Literal["squared", "huber"]
# Numbers in one tensor of a piece.
_PIECE = 1 << 21


@dataclass(frozen=True)
class Triples:
    """Which triples: vertex r of `vertex_R`, any two of `others_RK`, both indices of (M, ...).

    `valid_RK` says which others count; two of them must differ. None counts every pair, also one
    with itself, whose angle is 0 on both sides.
    """

    vertex_R: "Tensor"
    others_RK: "Tensor"
    valid_RK: "Tensor | None" = None


def compared(
    student: "Tensor", teacher: "Tensor", triples: Triples, distance: Distance
) -> "Tensor":
    """Return per vertex (R,) the mean distance of cosines over its triples; vectors (M, H, K)."""
    vertices, others = triples.others_RK.shape
    step = piece_of(others, student.shape[1] * max(student.shape[2], others))

    def piece(student: "Tensor", start: int) -> "Tensor":
        rows = slice(start, start + step)
        s, t = (_cosines(side, triples, rows) for side in (student, teacher))
        if distance == "squared":
            values = (s - t).square().mean(1)
        else:
            values = torch.nn.functional.smooth_l1_loss(s, t, reduction="none").mean(1)
        if triples.valid_RK is None:
            return values.mean((-2, -1))
        valid = triples.valid_RK[rows]
        both = valid[:, :, None] & valid[:, None, :]
        both = both & ~torch.eye(others, dtype=torch.bool, device=both.device)
        return (values * both).sum((-2, -1)) / both.sum((-2, -1)).clamp(min=1)

    if vertices <= step:
        return piece(student, 0)
    return torch.cat(
        [
            checkpoint.checkpoint(piece, student, start, use_reentrant=False)
            for start in range(0, vertices, step)
        ]
    )


def footprint(student: Shape, vertices: int, others: int, vectors: int) -> Footprint:
    """Return the bytes of `compared` for so many vertices, others of each, and vectors in all.

    Per vertex the differences to all others, as they are and of length one (2 held for the
    student, 3 more meanwhile for the teacher and the gradient), and its cosines (2 and 3). More
    than a piece of them is never held; its gradient takes two tensors of the student's size.
    """
    heads, width = student.split or 1, student.features or 1
    step = min(vertices, piece_of(others, heads * max(width, others)))
    differences = 4 * step * others * heads * width
    cosines = 4 * step * heads * others**2
    held, spare = 2 * (differences + cosines), 3 * (differences + cosines)
    if step == vertices:
        return Footprint(held, spare)
    return Footprint(0, held + spare + 2 * 4 * vectors * heads * width)


def piece_of(others: int, width: int) -> int:
    """Return how many vertices one piece has, of `others` vectors of that width each."""
    return max(1, _PIECE // (others * width))


def _cosines(vectors: "Tensor", triples: Triples, rows: slice) -> "Tensor":
    """Return the cosines (R, H, K, K)."""
    vertex, others = triples.vertex_R[rows], triples.others_RK[rows]
    found = vectors.index_select(0, others.flatten()).view(*others.shape, *vectors.shape[1:])
    away = (found - vectors.index_select(0, vertex).unsqueeze(1)).transpose(1, 2)
    length = torch.linalg.vector_norm(away, dim=-1, keepdim=True)
    away = away / torch.where(length > 0, length, torch.ones_like(length))
    cosines: Tensor = away @ away.transpose(-1, -2)
    return cosines


def _flat(values: "Tensor", axes: int) -> "Tensor":
    """Return vectors (M, H, K) of a tensor whose first `axes` axes count vectors."""
    flat = at_least_fp32(values).flatten(0, axes - 1)
    return flat if flat.ndim == 3 else flat.unsqueeze(1)


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

    def memory(self, student: Shape, teacher: Shape, batch: int, tokens: int) -> Footprint:  # noqa: ARG002
        """Return the bytes of its triples."""
        return footprint(student, *self.counts(student, batch, tokens))

    def counts(self, student: Shape, batch: int, tokens: int) -> tuple[int, int, int]:
        """Return how many vertices, others of each, and vectors in all there are."""
        raise NotImplementedError

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
    positions: ClassVar[tuple[Positions, ...]] = ("cls",)
    distance: Distance = "huber"

    def resolve(self, student: Shape, teacher: Shape) -> "SampleAngles":
        """Require pooled vectors."""
        self._check(student, teacher)
        return self

    def counts(self, student: Shape, batch: int, tokens: int) -> tuple[int, int, int]:  # noqa: ARG002
        """Return every sequence with every sequence."""
        return batch, batch, batch

    def __call__(
        self,
        student: "Tensor",
        teacher: "Tensor",
        context: Context,  # noqa: ARG002
        module: "Module | None" = None,  # noqa: ARG002
    ) -> "Tensor":
        """(B, F) or (B, R, K) twice -> (B,)."""
        every = torch.arange(student.shape[0], device=student.device)
        triples = Triples(every, every.expand(len(every), -1))
        return compared(_flat(student, 1), _flat(teacher, 1), triples, self.distance)


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

    def counts(self, student: Shape, batch: int, tokens: int) -> tuple[int, int, int]:  # noqa: ARG002
        """Return every token with its window."""
        return batch * tokens, 2 * (self.window // 2), batch * tokens

    def __call__(
        self,
        student: "Tensor",
        teacher: "Tensor",
        context: Context,
        module: "Module | None" = None,  # noqa: ARG002
    ) -> "Tensor":
        """(B, N, F) or (B, N, R, K) twice -> (B, N)."""
        B, N = student.shape[:2]
        triples = self._triples(context)
        return compared(_flat(student, 2), _flat(teacher, 2), triples, self.distance).view(B, N)

    def _triples(self, context: Context) -> Triples:
        mask_BN = context.mask_BN.bool()
        B, N = mask_BN.shape
        place = torch.arange(N, device=mask_BN.device)
        half = self.window // 2
        away = [d for d in range(-half, half + 1) if d and not (context.causal and d > 0)]
        near_NK = place[:, None] + torch.tensor(away, device=place.device)
        inside = (near_NK >= 0) & (near_NK < N)
        near_NK = near_NK.clamp(0, N - 1)
        valid_BNK = inside & mask_BN[:, near_NK] & mask_BN[:, :, None]
        first_B11 = torch.arange(B, device=place.device)[:, None, None] * N
        return Triples(
            torch.arange(B * N, device=place.device),
            (first_B11 + near_NK).flatten(0, 1),
            valid_BNK.flatten(0, 1),
        )


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

    def counts(self, student: Shape, batch: int, tokens: int) -> tuple[int, int, int]:
        """Return every layer at every token with all layers."""
        layers = student.layers or 1
        return batch * tokens * layers, layers, batch * tokens * layers

    def __call__(
        self,
        student: "Tensor",
        teacher: "Tensor",
        context: Context,  # noqa: ARG002
        module: "Module | None" = None,  # noqa: ARG002
    ) -> "Tensor":
        """(B, N, L, F) twice -> (B, N)."""
        B, N, L = student.shape[:3]
        every = torch.arange(B * N * L, device=student.device)
        others = every.view(-1, 1, L).expand(-1, L, -1).flatten(0, 1)
        triples = Triples(every, others, others != every[:, None])
        values = compared(_flat(student, 3), _flat(teacher, 3), triples, self.distance)
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

    def counts(self, student: Shape, batch: int, tokens: int) -> tuple[int, int, int]:
        """Return the chosen tokens or spans."""
        places = -(-tokens // SPAN) if student.positions == "span" else tokens
        vertices, partners = min(self.vertices, places), min(self.partners, places)
        return batch * vertices, partners, batch * places

    def __call__(
        self,
        student: "Tensor",
        teacher: "Tensor",
        context: Context,
        module: "Module | None" = None,  # noqa: ARG002
    ) -> "Tensor":
        """(B, N, F) or (B, N, R, K) twice -> (B,)."""
        around = context.of_spans() if self.spans else context
        triples = self._triples(around)
        values = compared(_flat(student, 2), _flat(teacher, 2), triples, self.distance)
        assert triples.valid_RK is not None
        counted = (triples.valid_RK.sum(-1) > 1).view(student.shape[0], -1)
        return values.view_as(counted).sum(-1) / counted.sum(-1).clamp(min=1)

    def _triples(self, context: Context) -> Triples:
        assert context.guide is not None
        B, N = context.mask_BN.shape
        pairs = context.pairs_BNN
        pairs = pairs & ~torch.eye(N, dtype=torch.bool, device=pairs.device)
        given_BNN = context.guide.mean(1).masked_fill(~pairs, -1.0)
        received_BN = given_BNN.clamp(min=0).sum(1).masked_fill(~context.mask_BN.bool(), -1.0)
        vertex_BR = received_BN.topk(min(self.vertices, N)).indices
        rows = vertex_BR[:, :, None].expand(-1, -1, N)
        partners = given_BNN.gather(1, rows).topk(min(self.partners, N))
        first = torch.arange(B, device=vertex_BR.device)[:, None] * N
        return Triples(
            (first + vertex_BR).flatten(),
            (first[:, :, None] + partners.indices).flatten(0, 1),
            (partners.values >= 0).flatten(0, 1),
        )
