"""The KL taken apart: the gold class against the rest, and the rest among themselves."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from toolchain.distill.context import Context
from toolchain.distill.objectives.mixtures import kl_of_logs
from toolchain.distill.objectives.objective import Objective, log_softmax
from toolchain.distill.objectives.settings import require_positive
from toolchain.distill.shapes import Shape, Unfit
from toolchain.lazy import lazy

if TYPE_CHECKING:
    import torch
    from torch import Tensor
    from torch.nn import Module
else:
    torch = lazy("torch")

__all__ = ["NCKD", "TCKD"]

_REMOVED = float("-inf")


class _Decoupled(Objective):
    """What both parts share: they read the gold label of each row of logits."""

    distribution: ClassVar[bool] = True
    needs_labels: ClassVar[bool] = True

    def resolve(self, student: Shape, teacher: Shape) -> "Objective":
        """Accept logits of two outcomes or more. Raises Unfit."""
        if student.positions != "logits":
            raise Unfit("gold labels belong to logits", "use knowledge: logits")
        return super().resolve(student, teacher)


@dataclass(frozen=True)
class TCKD(_Decoupled):
    """tau^2 KL of the two-outcome distributions (p_y, 1 - p_y), y being the gold label.

    DKD (arXiv 2203.08679). TCKD + (1 - p_T,y) NCKD is the plain KL, at the same tau.
    """

    key: ClassVar[str] = "tckd"
    held: ClassVar[float] = 4.0
    tau: float = 1.0

    def __post_init__(self) -> None:
        """Refuse a temperature that is not above 0."""
        require_positive(self.key, "tau", self.tau)

    def __call__(
        self,
        student: "Tensor",
        teacher: "Tensor",
        context: Context,
        module: "Module | None" = None,  # noqa: ARG002
    ) -> "Tensor":
        """(P, C) twice -> (P,)."""
        target = _target(student, context)
        log_s = self._against_the_rest(log_softmax(student, self.tau, context), target)
        log_t = self._against_the_rest(log_softmax(teacher, self.tau, context), target)
        return self.tau**2 * kl_of_logs(log_t, log_s)

    @staticmethod
    def _against_the_rest(logs: "Tensor", target: "Tensor") -> "Tensor":
        """Return log (p_y, 1 - p_y), (P, 2), the latter as a sum: 1 - p_y may round to 0."""
        own = logs.masked_fill(~target, _REMOVED).logsumexp(-1)
        rest = logs.masked_fill(target, _REMOVED).logsumexp(-1)
        return torch.stack([own, rest], dim=-1)


@dataclass(frozen=True)
class NCKD(_Decoupled):
    """tau^2 KL over the outcomes that are not the gold label, which is removed on both sides.

    DKD (arXiv 2203.08679). The label's logit is set to -inf; multiplying logits with a mask
    of zeros and ones, as some public code does, would leave it standing there as logit 0.
    """

    key: ClassVar[str] = "nckd"
    tau: float = 1.0

    def __post_init__(self) -> None:
        """Refuse a temperature that is not above 0."""
        require_positive(self.key, "tau", self.tau)

    def note(self, student: Shape, teacher: Shape) -> str:  # noqa: ARG002
        """Return what a user should know of two outcomes."""
        return (
            "nckd of two outcomes is always zero: one is the label, and one alone is certain"
            if student.features == 2
            else ""
        )

    def __call__(
        self,
        student: "Tensor",
        teacher: "Tensor",
        context: Context,
        module: "Module | None" = None,  # noqa: ARG002
    ) -> "Tensor":
        """(P, C) twice -> (P,)."""
        target = _target(student, context)
        log_s, log_t = (
            log_softmax(side.masked_fill(target, _REMOVED), self.tau, context)
            for side in (student, teacher)
        )
        difference = (log_t - log_s).masked_fill(target, 0.0)
        return self.tau**2 * (log_t.exp() * difference).sum(-1)


def _target(student: "Tensor", context: Context) -> "Tensor":
    """Return True at the gold label of each row, (P, C)."""
    assert context.labels_P is not None, "these rows have no labels"
    classes = torch.arange(student.shape[-1], device=student.device)
    return context.labels_P.unsqueeze(-1) == classes
