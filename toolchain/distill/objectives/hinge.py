"""A regression on logits that forgives errors under a margin which grows with its target."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from toolchain.distill.context import Context
from toolchain.distill.objectives.objective import Objective, at_least_fp32
from toolchain.distill.schedules import StepAnneal
from toolchain.errors import UsageError

if TYPE_CHECKING:
    from torch import Tensor
    from torch.nn import Module

__all__ = ["HingeMSE"]


@dataclass(frozen=True)
class HingeMSE(Objective):
    """max(0, |s - phi t|^2 - margin phi) per row, phi stepping from 1 / tau_max to 1.

    Continuation-KD (arXiv 2212.05998). Rows whose error is under the margin get no
    gradient. phi follows the progress of the stage in `tau_max` equal parts until `ends`.
    """

    key: ClassVar[str] = "hinge_mse"
    zero_at_equality: ClassVar[bool] = False
    margin: float = 1.0
    tau_max: int = 10
    ends: float = 1.0

    def __post_init__(self) -> None:
        """Refuse a negative margin, and what the steps refuse."""
        if not self.margin >= 0:
            raise UsageError(f"{self.key}: margin is {self.margin:g}, expected zero or more")
        StepAnneal(self.tau_max, self.ends)

    def __call__(
        self,
        student: "Tensor",
        teacher: "Tensor",
        context: Context,
        module: "Module | None" = None,  # noqa: ARG002
    ) -> "Tensor":
        """(..., F) twice -> (...)."""
        phi = StepAnneal(self.tau_max, self.ends)(context.moment.progress)
        squared = (at_least_fp32(student) - phi * at_least_fp32(teacher)).square().sum(-1)
        return (squared - self.margin * phi).clamp_min(0)
