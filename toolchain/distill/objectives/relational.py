"""Distances between relations: scale-free distances of sequences, products in many heads."""

import dataclasses
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from toolchain.distill.context import Context
from toolchain.distill.objectives.objective import Objective, at_least_fp32
from toolchain.distill.reduction import REDUCTIONS, Reduction
from toolchain.distill.shapes import Footprint, Positions, Shape, Unfit
from toolchain.lazy import lazy

if TYPE_CHECKING:
    import torch
    from torch import Tensor
    from torch.nn import Module
else:
    torch = lazy("torch")

__all__ = ["RKDDistance", "RelationMSE"]


@dataclass(frozen=True)
class RKDDistance(Objective):
    """Huber distance of two matrices of distances, each divided by its mean over distinct points.

    RKD (arXiv 1904.05068). Equal points have no part in the mean, as in the authors' code.
    """

    key: ClassVar[str] = "rkd_distance"
    across: ClassVar[bool] = True
    rowwise: ClassVar[bool] = False

    def resolve(self, student: Shape, teacher: Shape) -> "RKDDistance":  # noqa: ARG002
        """Require pairs of sequences."""
        if student.positions != "sample":
            raise Unfit(
                "rkd_distance compares distances of sequences",
                "transform: [pool, {pairdist: {how: l2, of: sample}}]",
            )
        return self

    def __call__(
        self,
        student: "Tensor",
        teacher: "Tensor",
        context: Context,  # noqa: ARG002
        module: "Module | None" = None,  # noqa: ARG002
    ) -> "Tensor":
        """(B, B) twice -> (B, B)."""
        s, t = (_relative(at_least_fp32(side)) for side in (student, teacher))
        return torch.nn.functional.smooth_l1_loss(s, t, reduction="none")


def _relative(distances: "Tensor") -> "Tensor":
    distinct = (distances > 0).sum().clamp(min=1)
    mean = distances.sum() / distinct
    return distances / torch.where(mean > 0, mean, torch.ones_like(mean))


@dataclass(frozen=True)
class RelationMSE(Objective):
    """Mean squared difference of scaled dot products of all pairs, in many heads.

    The same as `relation -> mse` averaged over heads and pairs (MGSKD, ACL 2022) without
    building the maps: with rows s_i and t_i scaled, sum_ij (s_i's_j - t_i't_j)^2 =
    |S'S|^2 - 2 |S'T|^2 + |T'T|^2, which takes matrices of the width of a head. In causal models
    the pairs with j <= i are half of all and half of the diagonal, since both maps are symmetric.
    """

    key: ClassVar[str] = "relation_mse"
    rowwise: ClassVar[bool] = False
    spans: bool = False

    def resolve(self, student: Shape, teacher: Shape) -> "RelationMSE":
        """Require tokens or spans, and the same heads."""
        if student.positions not in ("tok", "span") or student.layers:
            raise Unfit("relation_mse relates tokens or spans", "extract hidden, q, k or v")
        if student.split != teacher.split:
            raise Unfit("both sides need the same heads", "transform: [split_heads]")
        return dataclasses.replace(self, spans=student.positions == "span")

    def default_reduction(self, shape: Shape) -> Reduction:
        """Return the mean over pairs."""
        return REDUCTIONS[f"mean_{self.yields(shape)}"]

    def yields(self, shape: Shape) -> Positions:
        """Return that its values are summed over pairs."""
        return "span_pair" if shape.positions == "span" else "pair"

    def memory(self, student: Shape, teacher: Shape, batch: int, tokens: int) -> Footprint:
        """Return the bytes of both sides scaled and laid out by heads; no maps."""
        s, t = (side.elements(batch, tokens) for side in (student, teacher))
        return Footprint(4 * (3 * s + t), 4 * (s + t))

    def __call__(
        self,
        student: "Tensor",
        teacher: "Tensor",
        context: Context,
        module: "Module | None" = None,  # noqa: ARG002
    ) -> "Tensor":
        """(B, N, F) or (B, N, R, K) twice -> sums over pairs (B,)."""
        around = context.of_spans() if self.spans else context
        s, t = (_heads(at_least_fp32(side), around) for side in (student, teacher))
        sums = _square(s, s) - 2 * _square(s, t) + _square(t, t)
        if context.causal:
            own = s.square().sum(-1) - t.square().sum(-1)
            sums = (sums + own.square().sum(-1)) / 2
        mean: Tensor = sums.mean(-1)
        return mean


def _heads(values: "Tensor", context: Context) -> "Tensor":
    """Return (B, R, N, K) so scaled that products are divided by sqrt(K); padding is zero."""
    split = values.unsqueeze(2) if values.ndim == 3 else values
    # A number to a negative power may be anything in the eyes of the type checker.
    scale = context.mask_BN.to(values.dtype) / float(split.shape[-1] ** 0.25)
    return (split * scale[:, :, None, None]).transpose(1, 2)


def _square(x: "Tensor", y: "Tensor") -> "Tensor":
    """Return |X'Y|^2 per sequence and head, (B, R)."""
    products: Tensor = x.transpose(-1, -2) @ y
    return products.square().sum((-2, -1))
