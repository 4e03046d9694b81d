"""Distances between vectors and scores."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from toolchain.distill.context import Context
from toolchain.distill.objectives.objective import Objective, at_least_fp32
from toolchain.lazy import lazy

if TYPE_CHECKING:
    from torch import Tensor
    from torch.nn import Module, functional
else:
    functional = lazy("torch.nn.functional")

__all__ = ["MSE", "HalfSquared"]


@dataclass(frozen=True)
class MSE(Objective):
    """Squared difference per element; the reduction decides what is averaged."""

    key: ClassVar[str] = "mse"
    per_element: ClassVar[bool] = True
    # Its gradient is made of what it compares.
    held: ClassVar[float] = 0.0
    spare: ClassVar[float] = 2.0

    def __call__(
        self,
        student: "Tensor",
        teacher: "Tensor",
        context: Context,  # noqa: ARG002
        module: "Module | None" = None,  # noqa: ARG002
    ) -> "Tensor":
        """(..., F) twice -> (..., F)."""
        # Fused: its gradient takes a third of the time that a difference and its square take.
        return functional.mse_loss(at_least_fp32(student), at_least_fp32(teacher), reduction="none")


@dataclass(frozen=True)
class HalfSquared(Objective):
    """Half the squared difference of two scores: the KL of two Gaussians of unit variance."""

    key: ClassVar[str] = "half_squared"

    def __call__(
        self,
        student: "Tensor",
        teacher: "Tensor",
        context: Context,  # noqa: ARG002
        module: "Module | None" = None,  # noqa: ARG002
    ) -> "Tensor":
        """(P, 1) twice -> (P,)."""
        return (at_least_fp32(student) - at_least_fp32(teacher)).square().sum(-1) / 2
