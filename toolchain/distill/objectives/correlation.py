"""Correlations instead of differences: what a student needs not copy is scale and offset."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from toolchain.distill.context import Context
from toolchain.distill.objectives.objective import Objective, at_least_fp32
from toolchain.distill.shapes import Shape, Unfit

if TYPE_CHECKING:
    from torch import Tensor
    from torch.nn import Module

__all__ = ["PearsonInter", "PearsonIntra"]

# Squared length under which a vector counts as constant, and correlates with nothing.
_CONSTANT = 1e-16


def _pearson(student: "Tensor", teacher: "Tensor", axis: int) -> "Tensor":
    """Return the correlation along one axis; 0 where a side is constant, with finite gradient."""
    s = student - student.mean(axis, keepdim=True)
    t = teacher - teacher.mean(axis, keepdim=True)
    s_length = s.square().sum(axis).clamp_min(_CONSTANT).sqrt()
    t_length = t.square().sum(axis).clamp_min(_CONSTANT).sqrt()
    return (s * t).sum(axis) / (s_length * t_length)


@dataclass(frozen=True)
class PearsonInter(Objective):
    """1 - the correlation of each row with the teacher's: relations between classes.

    DIST (arXiv 2205.10536), on probabilities (transform softmax). Unchanged when either
    side's row is multiplied by a positive number or shifted.
    """

    key: ClassVar[str] = "pearson_inter"

    def resolve(self, student: Shape, teacher: Shape) -> "Objective":
        """Accept two features or more. Raises Unfit."""
        if student.features is None:
            raise Unfit(
                "correlations along as many keys or tokens as a row has would count padding",
                "use kd or another divergence",
            )
        if student.features < 2:
            raise Unfit("one number correlates with nothing", "use knowledge with several features")
        return super().resolve(student, teacher)

    def note(self, student: Shape, teacher: Shape) -> str:  # noqa: ARG002
        """Return what a user should know of two outcomes."""
        return (
            "pearson_inter of two outcomes is 0 or 2: it sees only which one is larger"
            if student.features == 2
            else ""
        )

    def __call__(
        self,
        student: "Tensor",
        teacher: "Tensor",
        context: Context,  # noqa: ARG002
        module: "Module | None" = None,  # noqa: ARG002
    ) -> "Tensor":
        """(..., F) twice -> (...)."""
        return 1 - _pearson(at_least_fp32(student), at_least_fp32(teacher), -1)


@dataclass(frozen=True)
class PearsonIntra(Objective):
    """1 - the correlation of each class over the batch, mean over classes: relations in a class.

    DIST (arXiv 2205.10536). Every row gets the value of its whole (micro-)batch, so it
    cannot be split exactly; a batch of one row correlates with nothing and is 1.
    """

    key: ClassVar[str] = "pearson_intra"
    across: ClassVar[bool] = True
    rowwise: ClassVar[bool] = False

    def resolve(self, student: Shape, teacher: Shape) -> "Objective":
        """Accept one vector per row. Raises Unfit."""
        if student.positions not in ("logits", "cls"):
            raise Unfit(
                "correlations over a batch need one vector per sequence or row of logits",
                "use logits, or pool token states first",
            )
        return super().resolve(student, teacher)

    def __call__(
        self,
        student: "Tensor",
        teacher: "Tensor",
        context: Context,  # noqa: ARG002
        module: "Module | None" = None,  # noqa: ARG002
    ) -> "Tensor":
        """(P, C) twice -> (P,), the same value everywhere."""
        s, t = at_least_fp32(student), at_least_fp32(teacher)
        return (1 - _pearson(s, t, 0)).mean().expand(s.shape[0])
