"""A target between student and teacher that moves to the teacher as training goes on."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from toolchain.distill.context import Context
from toolchain.distill.objectives.divergence import KL
from toolchain.distill.objectives.objective import Objective, at_least_fp32
from toolchain.distill.objectives.settings import require_fraction, require_positive
from toolchain.errors import UsageError

if TYPE_CHECKING:
    from torch import Tensor
    from torch.nn import Module

    from toolchain.distill.objectives.pace import Pace

__all__ = ["TAID"]


@dataclass(frozen=True)
class TAID(Objective):
    """tau^2 KL(P_t || Q), P_t = softmax(((1 - t) sg[s] + t z_T) / tau), t from `start` to `end`.

    Shing et al. 2025 (arXiv 2501.16937). At t = 0 the loss and its gradient are zero, at
    t = 1 it is the KL. t follows the loss (class Pace) and never falls behind a straight line.
    The authors' code feeds the cross-entropy, which contains the entropy of P_t, to the pace; here
    it is the KL.
    """

    key: ClassVar[str] = "taid"
    distribution: ClassVar[bool] = True
    start: float = 0.4
    end: float = 1.0
    alpha: float = 5e-4
    momentum: float = 0.99
    tau: float = 1.0

    def __post_init__(self) -> None:
        """Refuse shares outside [0, 1] or out of order, and temperatures that are not above 0."""
        for setting in ("start", "end", "alpha"):
            require_fraction(self.key, setting, getattr(self, setting))
        require_fraction(self.key, "momentum", self.momentum, one=False)
        require_positive(self.key, "tau", self.tau)
        if self.start > self.end:
            raise UsageError(
                f"{self.key}: it runs from {self.start:g} to {self.end:g}, expected start <= end"
            )

    def module(self) -> "Pace":
        """Return what moves t."""
        # A module class needs torch, which declarations do without.
        from toolchain.distill.objectives.pace import Pace

        return Pace(self.start, self.end, self.alpha, self.momentum)

    def __call__(
        self,
        student: "Tensor",
        teacher: "Tensor",
        context: Context,
        module: "Module | None" = None,
    ) -> "Tensor":
        """(..., outcomes) twice -> (...); `module` is the one made by this objective."""
        t = self._share(context, module)
        own = at_least_fp32(student).detach()
        target = (1 - t) * own + t * at_least_fp32(teacher)
        return KL(self.tau)(student, target, context)

    def _share(self, context: Context, module: "Module | None") -> float:
        from toolchain.distill.objectives.pace import Pace

        assert isinstance(module, Pace), "it needs the module it made"
        return module.at(context.moment)
