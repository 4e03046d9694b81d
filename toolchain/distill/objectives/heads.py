"""Gold labels for heads on intermediate layers: what grounds them in the task."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal

from toolchain.distill.context import Context
from toolchain.distill.objectives.labels import CrossEntropy
from toolchain.distill.objectives.objective import Objective
from toolchain.distill.shapes import Shape, Unfit

if TYPE_CHECKING:
    from torch import Tensor
    from torch.nn import Module

__all__ = ["HeadCrossEntropy"]


@dataclass(frozen=True)
class HeadCrossEntropy(Objective):
    """-log p(y) of the gold labels y (P,) under the heads' logits of one side, or of both added up.

    What ends in a `pseudo_head` is trained by it: teacher heads whose outcomes mean something
    (Universal-KD), task-aware filters (TED, arXiv 2210.01351). A regression takes the squared
    error.
    """

    key: ClassVar[str] = "head_ce"
    needs_labels: ClassVar[bool] = True
    zero_at_equality: ClassVar[bool] = False
    side: Literal["both", "student", "teacher"] = "teacher"

    def resolve(self, student: Shape, teacher: Shape) -> "HeadCrossEntropy":
        """Require logits on every side that is compared with the labels."""
        for name, shape in (("student", student), ("teacher", teacher)):
            if self.side in ("both", name) and shape.positions != "logits":
                raise Unfit(
                    f"gold labels belong to logits, and the {name}'s side has none",
                    "end the transforms of that side with pseudo_head",
                )
        return self

    def __call__(
        self,
        student: "Tensor",
        teacher: "Tensor",
        context: Context,
        module: "Module | None" = None,  # noqa: ARG002
    ) -> "Tensor":
        """(P, C) of the sides asked for -> (P,)."""
        assert context.labels_P is not None, "these rows have no labels"
        labels_P, entropy = context.labels_P, CrossEntropy()
        if self.side == "student":
            return entropy(student, labels_P, context)
        if self.side == "teacher":
            return entropy(teacher, labels_P, context)
        return entropy(student, labels_P, context) + entropy(teacher, labels_P, context)
