"""A squared distance that grows only linearly far out, so that outliers cannot rule."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from toolchain.distill.context import Context
from toolchain.distill.objectives.objective import Objective, at_least_fp32
from toolchain.errors import UsageError
from toolchain.lazy import lazy

if TYPE_CHECKING:
    import torch
    from torch import Tensor
    from torch.nn import Module
else:
    torch = lazy("torch")

__all__ = ["Huber"]


@dataclass(frozen=True)
class Huber(Objective):
    """x^2 / 2 where |x| <= delta, else delta (|x| - delta / 2), for x = s - t, per element.

    RKD (arXiv 1904.05068, eq. 5) and MGSKD use delta = 1.
    """

    key: ClassVar[str] = "huber"
    per_element: ClassVar[bool] = True
    delta: float = 1.0

    def __post_init__(self) -> None:
        """Refuse a bend at or below zero."""
        if not self.delta > 0:
            raise UsageError(f"objective huber: delta is {self.delta:g}, expected more than 0")

    def __call__(
        self,
        student: "Tensor",
        teacher: "Tensor",
        context: Context,  # noqa: ARG002
        module: "Module | None" = None,  # noqa: ARG002
    ) -> "Tensor":
        """(..., F) twice -> (..., F)."""
        return torch.nn.functional.huber_loss(
            at_least_fp32(student), at_least_fp32(teacher), reduction="none", delta=self.delta
        )
