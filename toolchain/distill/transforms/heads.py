"""Pseudo classifiers: the task's outcomes, read off an intermediate layer."""

import dataclasses
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from toolchain.distill.context import Context
from toolchain.distill.shapes import Footprint, Shape, Unfit
from toolchain.distill.transforms.transform import Owner, Side
from toolchain.lazy import lazy

if TYPE_CHECKING:
    import torch
    from torch import Tensor
    from torch.nn import Module
else:
    torch = lazy("torch")

__all__ = ["PseudoHead"]


@dataclass(frozen=True)
class PseudoHead:
    """A trainable linear head u = W h + b per side and layer, from pooled states to logits.

    Universal-KD (Wu et al., EMNLP 2021) compares layers in this space, so widths are free. Terms
    with the same `group` share the heads: one term with objective `head_ce` grounds the teacher's
    in the labels, another reads them followed by `detach`. Rows are those of the model's own
    logits: a multi-label class is a row (0, u).
    """

    key: ClassVar[str] = "pseudo_head"
    across: ClassVar[bool] = False
    owner: ClassVar[Owner] = "layer"
    side: Side = "both"
    group: str = "pseudo_head"
    answers: int = 0
    independent: bool = False

    def resolve(self, student: Shape, teacher: Shape) -> "PseudoHead":
        """Fix the number of outputs: the task's own."""
        for shape in (student, teacher):
            if shape.answers is None:
                raise Unfit(
                    "a pseudo head answers once per sequence, and this model answers per token",
                    "use alp_kd, which compares the states themselves",
                )
        sides = (student, teacher) if self.side == "both" else (self._own(student, teacher),)
        if any(shape.positions != "cls" for shape in sides):
            raise Unfit("a pseudo head reads one vector per sequence", "put pool before it")
        if self.side == "both" and student.answers != teacher.answers:
            raise Unfit(
                f"it compares outcome by outcome: the student has {student.answers}, "
                f"the teacher {teacher.answers}",
                "use a student for the teacher's labels",
            )
        own = sides[0]
        return dataclasses.replace(self, answers=own.answers or 1, independent=own.independent)

    def _own(self, student: Shape, teacher: Shape) -> Shape:
        return student if self.side == "student" else teacher

    def shape(self, own: Shape) -> Shape:
        """Return logits of the task's outcomes."""
        outcomes = 2 if self.independent else self.answers
        return dataclasses.replace(own, positions="logits", features=outcomes, heads=None)

    def memory(self, own: Shape, batch: int, tokens: int) -> Footprint:
        """Return the bytes of what it returns and of the gradient of its weights."""
        weights = (own.features or 1) * self.answers
        return Footprint(4 * (self.shape(own).elements(batch, tokens) + weights))

    def module(self, own: Shape) -> "Module | None":
        """Return the head of one layer."""
        assert own.features is not None
        return torch.nn.Linear(own.features, self.answers)

    def __call__(self, values: "Tensor", context: Context, module: "Module | None") -> "Tensor":  # noqa: ARG002
        """(B, D) -> logits (P, C)."""
        assert module is not None
        logits: Tensor = module(values)
        if not self.independent:
            return logits
        z_P = logits.flatten()
        return torch.stack([torch.zeros_like(z_P), z_P], dim=-1)
