"""Relations between tokens inside one model, free of its number of attention heads."""

import dataclasses
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from toolchain.distill.context import Context
from toolchain.distill.shapes import Footprint, Shape, Unfit
from toolchain.distill.transforms.transform import Fixed

if TYPE_CHECKING:
    from torch import Tensor
    from torch.nn import Module

__all__ = ["Relation"]

_MIN_RELATION_WIDTH = 8
_MAX_RELATION_HEADS = 48


@dataclass(frozen=True)
class Relation(Fixed):
    """Scaled dot products of all pairs of tokens in `heads` relation heads.

    MiniLMv2 (arXiv 2012.15828, eq. 4): heads are concatenated and split anew, so the numbers of
    attention heads need not agree; both widths must be divisible. Without a number, the largest
    one up to 48 that divides both widths and leaves at least 8 features per head is taken. With
    `own_heads` the models' own heads are kept and must be equal in number (MiniLM).
    """

    key: ClassVar[str] = "relation"
    heads: int | None = None
    own_heads: bool = False

    def resolve(self, student: Shape, teacher: Shape) -> "Relation":
        """Fix the number of relation heads."""
        s, t = student.features, teacher.features
        if not s or not t or student.positions != "tok":
            raise Unfit("relations are taken between token vectors", "extract q, k, v or hidden")
        if self.own_heads:
            if student.heads != teacher.heads:
                raise Unfit(
                    f"it relates tokens head by head: the student has {student.heads} heads, "
                    f"the teacher {teacher.heads}",
                    f"give the student {teacher.heads} heads, or use minilm_v2, whose relation "
                    "heads are free",
                )
            return dataclasses.replace(self, heads=student.heads)
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

    def memory(self, own: Shape, batch: int, tokens: int) -> Footprint:
        """Return the bytes of the maps and of the scaled vectors."""
        vectors = own.elements(batch, tokens)
        return Footprint(4 * (self.shape(own).elements(batch, tokens) + vectors), 4 * vectors)

    def __call__(self, values: "Tensor", context: Context, module: "Module | None") -> "Tensor":  # noqa: ARG002
        """(B, N, D) -> scores (B, R, N, N), before the softmax."""
        assert self.heads is not None
        B, N, D = values.shape
        x_BRNK = values.view(B, N, self.heads, D // self.heads).transpose(1, 2)
        # Scaling one factor first keeps the products small (fp16 overflow, methods.md section 0).
        scores: Tensor = (x_BRNK * (D // self.heads) ** -0.5) @ x_BRNK.transpose(-1, -2)
        return scores
