"""Surgery: the student's modules are changed for the time of training, and healed at its end."""

from abc import abstractmethod
from collections.abc import Sequence
from typing import TYPE_CHECKING, ClassVar, Protocol

from toolchain.distill.context import Moment
from toolchain.distill.stages import Stage
from toolchain.spec import ModelSpec

if TYPE_CHECKING:
    from torch import Tensor
    from torch.nn import Module

    from toolchain.distill.teachers import Readable, TrainingModel

__all__ = ["Operation", "Surgery"]


class Operation(Protocol):
    """A surgery under way on one student. Inherit from it: what is not needed has a default."""

    @property
    def module(self) -> "Module | None":
        """What it learns beside the student's own weights; saved and trained with the run."""
        return None

    @property
    def standing(self) -> frozenset[int] | None:
        """Return the student's blocks, from 1, that do something in this step; None for all."""
        return None

    def rate(self, moment: Moment) -> float | None:  # noqa: ARG002
        """Return the learning rate of what it learns; None is the run's."""
        return None

    def before_step(self, moment: Moment) -> None:
        """Set the student up for one step."""

    def penalty(self, moment: Moment) -> "Tensor | None":  # noqa: ARG002
        """Return a loss of its own, or None."""
        return None

    def heal(self) -> None:
        """Leave an ordinary model that computes what the student computes in evaluation mode.

        A model of another shape has it in `model.config`.
        """


class Surgery:
    """A kind of surgery with its settings. Base of all; a frozen dataclass.

    `hides` are kinds of the student's knowledge that cannot be read during it. `one_teacher` says
    that it cannot work with several, `takes_modules` that it needs the teacher's own modules: one
    that is `Takeable`, not only read; where nothing of a teacher is asked for beside the terms,
    `reads_teachers` is off. With `reshapes` the student's shape is an outcome: a
    baseline undergoes it too, so that both end equally small. With `exact` the student is computed
    in fp32 whatever the run's precision, since another rounding would hide the one that is meant.
    """

    key: ClassVar[str] = ""
    # A kind whose stages are a setting declares them as a field.
    stages: tuple[Stage, ...] = ("pred",)
    hides: ClassVar[frozenset[str]] = frozenset()
    one_teacher: ClassVar[bool] = False
    takes_modules: ClassVar[bool] = False
    reads_teachers: ClassVar[bool] = True
    reshapes: ClassVar[bool] = False
    exact: ClassVar[bool] = False

    def check(self, student: ModelSpec, teacher: ModelSpec) -> None:
        """Raise Unfit when these models cannot be operated on."""

    @abstractmethod
    def begin(self, student: "TrainingModel", teachers: "Sequence[Readable]") -> Operation:
        """Operate on the student, in place.

        It is on the run's device, and so are teachers whose modules are taken, though the weights
        of these may be there only while a module runs.
        """
