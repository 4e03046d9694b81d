"""Aggregation: a weight for every teacher and row of logits, from what all of them say.

Shape letters: K teachers, P rows of logits, C outcomes, D width of the student.
"""

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, NamedTuple

from toolchain.distill.context import Context
from toolchain.distill.extract import Request
from toolchain.distill.objectives import CrossEntropy
from toolchain.distill.stages import Stage
from toolchain.spec import ModelSpec

if TYPE_CHECKING:
    from torch import Tensor
    from torch.nn import Module

    from toolchain.distill.capture import Captures

__all__ = ["Aggregation", "Lesson", "Said"]


@dataclass(frozen=True, kw_only=True)
class Said:
    """What all models said of one micro-batch, without gradient.

    `student` and each of `teachers` are logits (P, C); `knowledge` holds what the student knew
    beside them, as `Aggregation.requests` asked.
    """

    student: "Tensor"
    teachers: "tuple[Tensor, ...]"
    context: Context
    knowledge: "Captures"

    def gold_loss(self, logits: "Tensor") -> "Tensor":
        """Return the loss (P,) of logits (P, C) against the gold labels."""
        assert self.context.labels_P is not None, "these rows have no labels"
        return CrossEntropy()(logits, self.context.labels_P, self.context)


class Lesson(NamedTuple):
    """What a learning aggregation takes from a finished step, row by row.

    `loss_P` is minimised by what it learns (None: nothing is learned from this step); the mean of
    `reward_P` over the global batch is what `observe(value)` of its module is told.
    """

    loss_P: "Tensor | None"
    reward_P: "Tensor"


class Aggregation:
    """Weighs teachers row by row. Base of all; a frozen dataclass with its settings.

    With fewer than `needs_teachers` it is left out. One that `reads_teachers` weighs them by what
    they said, row by row. One that `learns` is asked for a lesson after every step, when the
    student has been updated.
    """

    key: ClassVar[str] = ""
    needs_teachers: ClassVar[int] = 2
    needs_labels: ClassVar[bool] = False
    reads_teachers: ClassVar[bool] = True
    learns: ClassVar[bool] = False
    stages: ClassVar[tuple[Stage, ...]] = ("general", "inter", "pred")

    def resolve(self, student: ModelSpec, teachers: Sequence[ModelSpec]) -> "Aggregation":  # noqa: ARG002
        """Return it fixed for these models. Raises Unfit when it cannot weigh them."""
        return self

    def requests(self) -> frozenset[Request]:
        """Return what it reads of the student beside logits."""
        return frozenset()

    def module(self) -> "Module | None":
        """Return what it learns or remembers over the run, or None."""
        return None

    @abstractmethod
    def weights(self, said: Said, module: "Module | None") -> "Tensor":
        """Return weights (K, P), without gradient."""

    def lesson(self, said: Said, after: "Tensor", module: "Module | None") -> Lesson:  # noqa: ARG002
        """Return what the step taught; `after` are the updated student's logits (P, C)."""
        raise TypeError(f"{self.key} learns nothing")
