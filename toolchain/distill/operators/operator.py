"""Operator: changes a batch or its activations and gives a further view of it.

A plain step runs student and teachers once on the batch. An operator may replace the batch before
that (`prepare`: generated text), and may run the models again with activations exchanged or
disturbed (`view`); terms say which view they read.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Protocol, runtime_checkable

from toolchain.distill.context import Moment
from toolchain.distill.extract import Request
from toolchain.distill.stages import Stage
from toolchain.spec import ModelSpec

if TYPE_CHECKING:
    from torch import Tensor
    from torch.nn import Module

    from toolchain.data.batching import Batch
    from toolchain.distill.capture import Captures

__all__ = ["Judge", "Operator", "Passes", "Patches", "View"]

Patches = Mapping[Request, "Callable[[Tensor], Tensor]"]
"""What replaces the output of a block (or of the embeddings) during one forward pass."""


@dataclass(frozen=True)
class View:
    """One forward pass of all models: the batch they read and what they knew of it."""

    batch: "Batch"
    student: "Captures"
    teachers: "tuple[Captures, ...]"


class Passes(Protocol):
    """Forward passes an operator may ask for."""

    @property
    def student_spec(self) -> ModelSpec:
        """The student's shape."""

    @property
    def teacher_specs(self) -> tuple[ModelSpec, ...]:
        """The teachers' shapes."""

    def student(self, batch: "Batch", patches: Patches) -> "Captures":
        """Run the student, with gradient."""

    def teacher(self, index: int, batch: "Batch", patches: Patches) -> "Captures":
        """Run one teacher, without gradient."""

    def loss(self, plain: View, reader: str) -> "Tensor":
        """Return the loss of the terms that read the view `reader`, taken on the plain pass."""

    def generate(self, batch: "Batch", *, tau: float, seed: int, teacher: float = 0.0) -> "Batch":
        """Return the batch with answers sampled from the student (decoders only).

        Each token is drawn from the one teacher with the probability `teacher`.
        """

    def memory(self, key: str) -> "Module":
        """Return what the operator called `key` remembers over the run."""


@runtime_checkable
class Judge(Protocol):
    """What an operator remembers that follows the loss on dev."""

    def judged(self, loss: float) -> None:
        """Take the loss per token of a language model on dev."""


class Operator:
    """Makes a view called `key` of each batch. Base of all; a frozen dataclass.

    `invents_labels` says that batches may hold text no one labelled: gold labels mean nothing then.
    Those of an operator with a view are in its view alone. `reruns` says why the teacher must run
    beside the student: what it knows of the rows of the data is not enough. Empty where it is.
    `asks_teachers` says that its view runs the teachers itself and reads nothing they know of the
    plain batch. `one_teacher` says that it works with one alone.
    """

    key: ClassVar[str] = ""
    reruns: ClassVar[str] = ""
    stages: ClassVar[tuple[Stage, ...]] = ("pred",)
    invents_labels: ClassVar[bool] = False
    asks_teachers: ClassVar[bool] = False
    one_teacher: ClassVar[bool] = False

    def check(self, student: ModelSpec, teacher: ModelSpec) -> None:
        """Raise Unfit when these models cannot be operated on."""

    def module(self) -> "Module | None":
        """Return what it remembers over the run, saved with it, or None.

        A `Judge` is told the loss on dev before the first step and at each evaluation.
        """
        return None

    def requests(self, spec: ModelSpec) -> frozenset[Request]:  # noqa: ARG002
        """Return tensors of the plain pass the operator itself reads.

        The student's, and where the operator `reruns` the teacher, its too.
        """
        return frozenset()

    def prepare(self, batch: "Batch", passes: Passes, moment: Moment) -> "Batch":  # noqa: ARG002
        """Return the batch the step trains on."""
        return batch

    def view(self, plain: View, passes: Passes, moment: Moment) -> View | None:  # noqa: ARG002
        """Return the further view, or None when the operator only prepares batches."""
        return None
