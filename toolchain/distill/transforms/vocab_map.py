"""Outcomes that a student with fewer tokens has, out of those of its teacher."""

import dataclasses
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from toolchain.distill.context import Context
from toolchain.distill.shapes import Shape, Unfit
from toolchain.distill.transforms.transform import Fixed, Side

if TYPE_CHECKING:
    from torch import Tensor
    from torch.nn import Module

__all__ = ["VocabMap"]


@dataclass(frozen=True)
class VocabMap(Fixed):
    """The teacher's logits of the tokens the student has, in the student's order.

    A softmax over them is the teacher's distribution given that the token is a kept one (GLMD,
    arXiv 2306.06625). Changes nothing where both have the same outcomes.
    """

    key: ClassVar[str] = "vocab_map"
    by_token: ClassVar[bool] = True
    side: ClassVar[Side] = "teacher"
    outcomes: int = 0

    def resolve(self, student: Shape, teacher: Shape) -> "VocabMap":
        """Require logits, no more outcomes than the teacher's."""
        s, t = student.features, teacher.features
        if student.positions != "logits" or s is None or t is None:
            raise Unfit("only logits have outcomes to choose from", "use it with knowledge: logits")
        if s > t:
            raise Unfit(
                f"the student has {s} outcomes, the teacher only {t}",
                "give the student a part of the teacher's vocabulary (student.vocab)",
            )
        return dataclasses.replace(self, outcomes=s)

    def shape(self, own: Shape) -> Shape:
        """Return the shape with the student's outcomes."""
        return dataclasses.replace(own, features=self.outcomes)

    def __call__(self, values: "Tensor", context: Context, module: "Module | None") -> "Tensor":  # noqa: ARG002
        """(P, V) -> (P, K)."""
        if values.shape[-1] == self.outcomes:
            return values
        assert context.kept_K is not None, "the student has no vocabulary of its own"
        return values[:, context.kept_K]
