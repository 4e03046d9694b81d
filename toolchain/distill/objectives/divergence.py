"""Divergences between two distributions over outcomes."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from toolchain.distill.context import Context
from toolchain.distill.objectives.distance import HalfSquared
from toolchain.distill.objectives.objective import Objective, log_softmax, require_same_size
from toolchain.distill.objectives.settings import require_positive
from toolchain.distill.shapes import Shape

if TYPE_CHECKING:
    from torch import Tensor
    from torch.nn import Module

__all__ = ["KL", "SoftCrossEntropy"]


@dataclass(frozen=True)
class KL(Objective):
    """tau^2 KL(softmax(t / tau) || softmax(s / tau)), summed over the last axis.

    Hinton et al. 2015 (arXiv 1503.02531, section 2). The gradient with respect to s is
    tau (p_S - p_T), so the weight of the term does not change with tau. For a regression, whose
    scores are means of unit Gaussians, it is half the squared difference.
    """

    key: ClassVar[str] = "kl"
    distribution: ClassVar[bool] = True
    tau: float = 1.0

    def __post_init__(self) -> None:
        """Refuse a temperature that is not above 0."""
        require_positive(self.key, "tau", self.tau)

    def resolve(self, student: Shape, teacher: Shape) -> Objective:
        """Require equal outcomes (and equal heads for maps)."""
        require_same_size(student, teacher)
        return HalfSquared() if student.features == 1 else self

    def __call__(
        self,
        student: "Tensor",
        teacher: "Tensor",
        context: Context,
        module: "Module | None" = None,  # noqa: ARG002
    ) -> "Tensor":
        """(..., outcomes) twice -> (...)."""
        log_s = log_softmax(student, self.tau, context)
        log_t = log_softmax(teacher, self.tau, context)
        return self.tau**2 * (log_t.exp() * (log_t - log_s)).sum(-1)


@dataclass(frozen=True)
class SoftCrossEntropy(Objective):
    """-tau^2 sum p_T log p_S at temperature tau: the KL plus tau^2 times the teacher's entropy.

    TinyBERT (arXiv 1909.10351, eq. 10) writes it without tau^2 and uses tau = 1, where both agree.
    """

    key: ClassVar[str] = "soft_ce"
    distribution: ClassVar[bool] = True
    zero_at_equality: ClassVar[bool] = False
    spare: ClassVar[float] = 1.0
    tau: float = 1.0

    def __post_init__(self) -> None:
        """Refuse a temperature that is not above 0."""
        require_positive(self.key, "tau", self.tau)

    def resolve(self, student: Shape, teacher: Shape) -> Objective:
        """Require equal outcomes."""
        require_same_size(student, teacher)
        return HalfSquared() if student.features == 1 else self

    def __call__(
        self,
        student: "Tensor",
        teacher: "Tensor",
        context: Context,
        module: "Module | None" = None,  # noqa: ARG002
    ) -> "Tensor":
        """(..., outcomes) twice -> (...)."""
        log_s = log_softmax(student, self.tau, context)
        p_t = log_softmax(teacher, self.tau, context).exp()
        return -(self.tau**2) * (p_t * log_s).sum(-1)
