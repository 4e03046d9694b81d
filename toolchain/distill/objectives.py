"""How two pieces of knowledge are compared: (student, teacher, outcome mask) to distances.

Everything is computed in float32 whatever the forward pass used. Distributions are compared over
the last axis; for maps over pairs of tokens the outcomes are keys, and padded keys are removed
on both sides before the softmax. An objective that returns one value per element leaves the last
axis to the reduction.

Shape letters: B batch, N tokens, H maps, C classes, F features.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Protocol

from toolchain.distill.shapes import Shape, Unfit
from toolchain.lazy import lazy

if TYPE_CHECKING:
    import torch
    from torch import Tensor
else:
    torch = lazy("torch")

__all__ = ["KL", "MSE", "CrossEntropy", "Objective", "SoftCrossEntropy"]

# Finite, so that a row of padded queries (all keys masked) gives no NaN.
_REMOVED = -1e30


class Objective(Protocol):
    """A distance or divergence between two tensors of equal shape."""

    @property
    def per_element(self) -> bool:
        """Whether the last axis is kept for the reduction."""

    def check(self, student: Shape, teacher: Shape) -> None:
        """Raise Unfit when the two shapes cannot be compared."""

    def __call__(self, student: "Tensor", teacher: "Tensor", outcomes: "Tensor | None") -> "Tensor":
        """Return distances; `outcomes` (broadcastable) is true where an outcome exists."""


def _same_size(student: Shape, teacher: Shape) -> None:
    if student.positions == "pair" and student.heads != teacher.heads:
        raise Unfit(
            f"it compares attention head by head: the student has {student.heads} heads, "
            f"the teacher {teacher.heads}",
            f"give the student {teacher.heads} heads, or use minilm_v2, whose heads are free",
        )
    if student.features != teacher.features:
        raise Unfit(
            f"it compares feature by feature: the student has {student.features}, "
            f"the teacher {teacher.features}",
            "add a projection (project: student), or use a method without widths such as minilm_v2",
        )


def _log_softmax(scores: "Tensor", tau: float, outcomes: "Tensor | None") -> "Tensor":
    scaled = scores.float() / tau if scores.dtype != torch.float64 else scores / tau
    if outcomes is not None:
        scaled = scaled.masked_fill(~outcomes, _REMOVED)
    return scaled.log_softmax(-1)


@dataclass(frozen=True)
class CrossEntropy:
    """-log p_S(y) for gold class ids y (B,), from logits (B, C) to values (B,)."""

    per_element: ClassVar[bool] = False

    def check(self, student: Shape, teacher: Shape) -> None:  # noqa: ARG002
        """Accept any classifier."""
        if student.positions != "cls":
            raise Unfit("labels belong to whole sequences here", "extract labels")

    def __call__(
        self,
        student: "Tensor",
        teacher: "Tensor",
        outcomes: "Tensor | None",  # noqa: ARG002
    ) -> "Tensor":
        """Return -log p_S(y)."""
        return -_log_softmax(student, 1.0, None).gather(-1, teacher.unsqueeze(-1)).squeeze(-1)


@dataclass(frozen=True)
class KL:
    """tau^2 KL(softmax(t / tau) || softmax(s / tau)), summed over the last axis.

    Hinton et al. 2015 (arXiv 1503.02531, section 2). The gradient with respect to s is
    tau (p_S - p_T), so the weight of the term does not change with tau.
    """

    tau: float = 1.0
    per_element: ClassVar[bool] = False

    def check(self, student: Shape, teacher: Shape) -> None:
        """Require equal outcomes (and equal heads for maps)."""
        _same_size(student, teacher)

    def __call__(self, student: "Tensor", teacher: "Tensor", outcomes: "Tensor | None") -> "Tensor":
        """(..., outcomes) twice -> (...)."""
        log_s = _log_softmax(student, self.tau, outcomes)
        log_t = _log_softmax(teacher, self.tau, outcomes)
        return self.tau**2 * (log_t.exp() * (log_t - log_s)).sum(-1)


@dataclass(frozen=True)
class SoftCrossEntropy:
    """-tau^2 sum p_T log p_S at temperature tau: the KL plus tau^2 times the teacher's entropy.

    TinyBERT (arXiv 1909.10351, eq. 10) writes it without tau^2 and uses tau = 1, where both agree.
    """

    tau: float = 1.0
    per_element: ClassVar[bool] = False

    def check(self, student: Shape, teacher: Shape) -> None:
        """Require equal outcomes."""
        _same_size(student, teacher)

    def __call__(self, student: "Tensor", teacher: "Tensor", outcomes: "Tensor | None") -> "Tensor":
        """(..., outcomes) twice -> (...)."""
        log_s = _log_softmax(student, self.tau, outcomes)
        p_t = _log_softmax(teacher, self.tau, outcomes).exp()
        return -(self.tau**2) * (p_t * log_s).sum(-1)


@dataclass(frozen=True)
class MSE:
    """Squared difference per element; the reduction decides what is averaged."""

    per_element: ClassVar[bool] = True

    def check(self, student: Shape, teacher: Shape) -> None:
        """Require equal features (and equal heads for maps)."""
        _same_size(student, teacher)

    def __call__(
        self,
        student: "Tensor",
        teacher: "Tensor",
        outcomes: "Tensor | None",  # noqa: ARG002
    ) -> "Tensor":
        """(..., F) twice -> (..., F)."""
        if student.dtype != torch.float64:
            student, teacher = student.float(), teacher.float()
        return (student - teacher).square()
