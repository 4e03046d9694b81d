"""Gold labels: the hard loss, for every task."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from toolchain.distill.context import Context
from toolchain.distill.objectives.objective import Objective, at_least_fp32, log_softmax
from toolchain.distill.shapes import Shape, Unfit

if TYPE_CHECKING:
    from torch import Tensor
    from torch.nn import Module

__all__ = ["CrossEntropy"]


@dataclass(frozen=True)
class CrossEntropy(Objective):
    """-log p_S(y) of the gold labels y (P,), from logits (P, C) to values (P,).

    A multi-label class is a row of two outcomes, so this is its binary cross-entropy. A regression
    (C = 1) has scores for labels and takes the squared error.
    """

    key: ClassVar[str] = "ce"
    needs_labels: ClassVar[bool] = True
    zero_at_equality: ClassVar[bool] = False
    held: ClassVar[float] = 1.0
    spare: ClassVar[float] = 2.0

    def resolve(self, student: Shape, teacher: Shape) -> "CrossEntropy":  # noqa: ARG002
        """Accept the logits of every task."""
        if student.positions != "logits":
            raise Unfit("gold labels belong to logits", "use knowledge: labels")
        return self

    def __call__(
        self,
        student: "Tensor",
        teacher: "Tensor",
        context: Context,
        module: "Module | None" = None,  # noqa: ARG002
    ) -> "Tensor":
        """Return the loss of each row; `teacher` holds the gold labels."""
        if teacher.is_floating_point():
            logits = at_least_fp32(student)
            return (logits[:, 0] - teacher.to(logits.dtype)).square()
        return -log_softmax(student, 1.0, context).gather(-1, teacher.unsqueeze(-1)).squeeze(-1)
