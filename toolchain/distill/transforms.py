"""What is done to knowledge before it is compared: projections, pooling, norms, relations.

A transform declares which side it acts on, what it does to a shape, and computes on tensors.
`resolve` fixes what depends on both models (a projection's width, a number of relation heads).
Learned ones build a module that the distiller owns: it is trained and saved with the run and
never exported.

Shape letters: B batch, N tokens, D width, R relation heads.
"""

import dataclasses
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal, Protocol

from toolchain.distill.shapes import Shape, Unfit
from toolchain.lazy import lazy

if TYPE_CHECKING:
    import torch
    from torch import Tensor
    from torch.nn import Module
else:
    torch = lazy("torch")

__all__ = ["L2Norm", "Pool", "Project", "Relation", "Side", "Transform"]

Side = Literal["both", "student", "teacher"]

_MIN_RELATION_WIDTH = 8
_MAX_RELATION_HEADS = 48


class Transform(Protocol):
    """One step from captured knowledge to what the objective compares."""

    @property
    def side(self) -> Side:
        """The side it acts on."""

    def resolve(self, student: Shape, teacher: Shape) -> "Transform":
        """Return it with everything fixed for these two shapes. Raises Unfit."""

    def shape(self, own: Shape) -> Shape:
        """Return the shape it makes of one side's."""

    def module(self) -> "Module | None":
        """Return a new learned module, or None."""

    def __call__(self, values: "Tensor", mask_BN: "Tensor", module: "Module | None") -> "Tensor":
        """Transform one side's tensor of one layer."""


class Fixed:
    """Base of transforms that learn nothing."""

    def module(self) -> "Module | None":
        """Return None."""
        return None


@dataclass(frozen=True)
class Project:
    """Trainable linear map from the student's width to the teacher's, one for all layers.

    TinyBERT (arXiv 1909.10351, eq. 8) shares one W over the embedding and all blocks; `group`
    names it, so that terms with the same group share it.
    """

    group: str = "width"
    source: int = 0
    to: int = 0
    side: ClassVar[Side] = "student"

    def resolve(self, student: Shape, teacher: Shape) -> "Project":
        """Fix both widths."""
        if not student.features or not teacher.features:
            raise Unfit("there are no features to project", "project hidden states or embeddings")
        return dataclasses.replace(self, source=student.features, to=teacher.features)

    def shape(self, own: Shape) -> Shape:
        """Return the student's shape with the teacher's width."""
        return dataclasses.replace(own, features=self.to)

    def module(self) -> "Module | None":
        """Return the linear map, near the identity when widths are equal.

        Starting from the identity makes a copied student start at the distance it really has.
        """
        linear = torch.nn.Linear(self.source, self.to, bias=False)
        if self.source == self.to:
            torch.nn.init.eye_(linear.weight)
        return linear

    def __call__(self, values: "Tensor", mask_BN: "Tensor", module: "Module | None") -> "Tensor":  # noqa: ARG002
        """(B, N, D_S) -> (B, N, D_T)."""
        assert module is not None
        projected: Tensor = module(values)
        return projected


@dataclass(frozen=True)
class Pool(Fixed):
    """One vector per sequence: the first token, or the mean over valid tokens."""

    how: Literal["cls", "mean"] = "cls"
    side: ClassVar[Side] = "both"

    def resolve(self, student: Shape, teacher: Shape) -> "Pool":  # noqa: ARG002
        """Check that there are tokens to pool."""
        if student.positions != "tok":
            raise Unfit("only token states can be pooled", "leave the pooling out")
        return self

    def shape(self, own: Shape) -> Shape:
        """Return the shape without its token axis."""
        return dataclasses.replace(own, positions="cls")

    def __call__(self, values: "Tensor", mask_BN: "Tensor", module: "Module | None") -> "Tensor":  # noqa: ARG002
        """(B, N, D) -> (B, D)."""
        if self.how == "cls":
            return values[:, 0]
        mask = mask_BN.to(values.dtype).unsqueeze(-1)
        return (values * mask).sum(1) / mask.sum(1)


@dataclass(frozen=True)
class L2Norm(Fixed):
    """Each vector divided by its length (PKD, arXiv 1908.09355, eq. 7)."""

    side: ClassVar[Side] = "both"

    def resolve(self, student: Shape, teacher: Shape) -> "L2Norm":  # noqa: ARG002
        """Accept every shape."""
        return self

    def shape(self, own: Shape) -> Shape:
        """Return the shape unchanged."""
        return own

    def __call__(self, values: "Tensor", mask_BN: "Tensor", module: "Module | None") -> "Tensor":  # noqa: ARG002
        """(..., D) -> (..., D) of length 1."""
        return torch.nn.functional.normalize(values, dim=-1)


@dataclass(frozen=True)
class Relation(Fixed):
    """Scaled dot products of all pairs of tokens in `heads` relation heads.

    MiniLMv2 (arXiv 2012.15828, eq. 4): heads are concatenated and split anew, so the numbers of
    attention heads need not agree; both widths must be divisible. Without a number, the largest
    one up to 48 that divides both widths and leaves at least 8 features per head is taken.
    """

    heads: int | None = None
    side: ClassVar[Side] = "both"

    def resolve(self, student: Shape, teacher: Shape) -> "Relation":
        """Fix the number of relation heads."""
        s, t = student.features, teacher.features
        if not s or not t or student.positions != "tok":
            raise Unfit("relations are taken between token vectors", "extract q, k, v or hidden")
        narrow = min(s, t)
        fits = [
            r
            for r in range(1, min(_MAX_RELATION_HEADS, narrow // _MIN_RELATION_WIDTH) + 1)
            if s % r == 0 and t % r == 0
        ]
        if self.heads is not None and (s % self.heads or t % self.heads):
            offer = ", ".join(map(str, fits[-6:])) or "none"
            raise Unfit(
                f"{self.heads} relation heads do not divide both widths: student {s}, teacher {t}",
                f"numbers that do: {offer}",
            )
        heads = self.heads or (fits[-1] if fits else 1)
        return dataclasses.replace(self, heads=heads)

    def shape(self, own: Shape) -> Shape:  # noqa: ARG002
        """Return maps over pairs of tokens."""
        return Shape(positions="pair", heads=self.heads)

    def __call__(self, values: "Tensor", mask_BN: "Tensor", module: "Module | None") -> "Tensor":  # noqa: ARG002
        """(B, N, D) -> scores (B, R, N, N), before the softmax."""
        assert self.heads is not None
        B, N, D = values.shape
        x_BRNK = values.view(B, N, self.heads, D // self.heads).transpose(1, 2)
        # Scaling one factor first keeps the products small (fp16 overflow, methods.md section 0).
        scores: Tensor = (x_BRNK * (D // self.heads) ** -0.5) @ x_BRNK.transpose(-1, -2)
        return scores
