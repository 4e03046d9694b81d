"""Vectors divided into heads, tokens gathered into spans."""

import dataclasses
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from toolchain.distill.context import Context
from toolchain.distill.shapes import SPAN, Footprint, Shape, Unfit
from toolchain.distill.transforms.transform import Fixed

if TYPE_CHECKING:
    from torch import Tensor
    from torch.nn import Module

__all__ = ["Spans", "SplitHeads"]

_NARROWEST = 4


@dataclass(frozen=True)
class SplitHeads(Fixed):
    """Each vector divided into `heads` parts that are related one by one (MGSKD, ACL 2022).

    Without a number, the largest one up to `most` that divides both widths and leaves at least
    4 features per head is taken: 64 of 6 for a width of 384.
    """

    key: ClassVar[str] = "split_heads"
    heads: int | None = None
    most: int = 64

    def resolve(self, student: Shape, teacher: Shape) -> "SplitHeads":
        """Fix the number of heads."""
        s, t = student.features, teacher.features
        if not s or not t or student.positions not in ("tok", "span", "cls") or student.layers:
            raise Unfit("there are no features to divide", "extract hidden, q, k or v of one layer")
        fits = [
            r
            for r in range(1, min(self.most, s // _NARROWEST, t // _NARROWEST) + 1)
            if s % r == 0 and t % r == 0
        ]
        if self.heads is not None and (s % self.heads or t % self.heads):
            offer = ", ".join(map(str, fits[-6:])) or "none"
            raise Unfit(
                f"{self.heads} heads do not divide both widths: student {s}, teacher {t}",
                f"numbers that do: {offer}",
            )
        return dataclasses.replace(self, heads=self.heads or (fits[-1] if fits else 1))

    def shape(self, own: Shape) -> Shape:
        """Return the shape with narrower vectors, one per head."""
        assert own.features is not None
        assert self.heads is not None
        return dataclasses.replace(own, features=own.features // self.heads, split=self.heads)

    def memory(self, own: Shape, batch: int, tokens: int) -> Footprint:  # noqa: ARG002
        """Return nothing: it is a view."""
        return Footprint(0)

    def __call__(self, values: "Tensor", context: Context, module: "Module | None") -> "Tensor":  # noqa: ARG002
        """(..., D) -> (..., R, K)."""
        assert self.heads is not None
        return values.view(*values.shape[:-1], self.heads, values.shape[-1] // self.heads)


@dataclass(frozen=True)
class Spans(Fixed):
    """The mean of each run of three real tokens, the last run of a sequence perhaps shorter.

    They stand for the phrases of MGSKD (ACL 2022), which a parser would have to find.
    """

    key: ClassVar[str] = "spans"

    def resolve(self, student: Shape, teacher: Shape) -> "Spans":  # noqa: ARG002
        """Check that there are tokens of one layer."""
        if student.positions != "tok" or student.layers or student.split:
            raise Unfit("only token states of one layer have spans", "put spans first")
        return self

    def shape(self, own: Shape) -> Shape:
        """Return the shape with spans for tokens."""
        return dataclasses.replace(own, positions="span")

    def memory(self, own: Shape, batch: int, tokens: int) -> Footprint:
        """Return the bytes of the spans and of who belongs to which."""
        belongs = batch * tokens * -(-tokens // SPAN)
        return Footprint(4 * (self.shape(own).elements(batch, tokens) + belongs), 4 * belongs)

    def __call__(self, values: "Tensor", context: Context, module: "Module | None") -> "Tensor":  # noqa: ARG002
        """(B, N, D) -> (B, M, D)."""
        inside = context.spans_BMN.to(values.dtype)
        return (inside / inside.sum(-1, keepdim=True).clamp(min=1)) @ values
