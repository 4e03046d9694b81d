"""A teacher that begins faint and reaches its own strength in steps."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from toolchain.distill.context import Context
from toolchain.distill.schedules import StepAnneal
from toolchain.distill.shapes import Shape
from toolchain.distill.transforms.transform import Fixed, Side

if TYPE_CHECKING:
    from torch import Tensor
    from torch.nn import Module

__all__ = ["Anneal"]


@dataclass(frozen=True)
class Anneal(Fixed):
    """The teacher's values times phi = 1 / tau_max, 2 / tau_max, ..., 1, by the stage's progress.

    Annealing-KD (arXiv 2104.07163): phi = 1 - (T - 1) / tau_max, T falling from tau_max to 1
    in equal parts of the stage until `ends`.
    """

    key: ClassVar[str] = "anneal"
    side: ClassVar[Side] = "teacher"
    tau_max: int = 7
    ends: float = 1.0

    def __post_init__(self) -> None:
        """Refuse what the steps refuse."""
        StepAnneal(self.tau_max, self.ends)

    def resolve(self, student: Shape, teacher: Shape) -> "Anneal":  # noqa: ARG002
        """Accept every shape."""
        return self

    def __call__(self, values: "Tensor", context: Context, module: "Module | None") -> "Tensor":  # noqa: ARG002
        """Return the values times phi."""
        return values * StepAnneal(self.tau_max, self.ends)(context.moment.progress)
