"""Divergences of student and teacher from each other and from mixtures of the two.

P is the teacher's distribution, Q the student's. Mixtures are formed from log-probabilities, so
nothing underflows. All are multiplied by tau^2.
"""

import math
from abc import abstractmethod
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from toolchain.distill.context import Context
from toolchain.distill.objectives.objective import Objective, log_softmax
from toolchain.distill.objectives.settings import require_fraction, require_positive
from toolchain.lazy import lazy

if TYPE_CHECKING:
    import torch
    from torch import Tensor
    from torch.nn import Module
else:
    torch = lazy("torch")

__all__ = ["GJS", "RKL", "SKL", "SRKL", "Divergence", "kl_of_logs", "mixture"]


def kl_of_logs(log_p: "Tensor", log_q: "Tensor") -> "Tensor":
    """Return KL(p || q) over the last axis, (..., outcomes) twice -> (...)."""
    return (log_p.exp() * (log_p - log_q)).sum(-1)


def mixture(log_p: "Tensor", log_q: "Tensor", share: float) -> "Tensor":
    """Return log(share p + (1 - share) q) for 0 <= share < 1."""
    if not share:
        return log_q
    return torch.logaddexp(log_p + math.log(share), log_q + math.log1p(-share))


class Divergence(Objective):
    """tau^2 times a function of the two distributions' logarithms at temperature tau. Base."""

    distribution: ClassVar[bool] = True
    tau: float

    @abstractmethod
    def of_logs(self, log_p: "Tensor", log_q: "Tensor") -> "Tensor":
        """Return the divergence (...) of teacher log p and student log q (..., outcomes)."""

    def __call__(
        self,
        student: "Tensor",
        teacher: "Tensor",
        context: Context,
        module: "Module | None" = None,  # noqa: ARG002
    ) -> "Tensor":
        """(..., outcomes) twice -> (...)."""
        log_q = log_softmax(student, self.tau, context)
        log_p = log_softmax(teacher, self.tau, context)
        return self.tau**2 * self.of_logs(log_p, log_q)


@dataclass(frozen=True)
class RKL(Divergence):
    """tau^2 KL(Q || P): the student is drawn to the teacher's largest modes.

    The gradient with respect to the student's logits is tau q (log q - log p - KL).
    """

    key: ClassVar[str] = "rkl"
    tau: float = 1.0

    def __post_init__(self) -> None:
        """Refuse a temperature that is not above 0."""
        require_positive(self.key, "tau", self.tau)

    def of_logs(self, log_p: "Tensor", log_q: "Tensor") -> "Tensor":
        """(..., outcomes) twice -> (...)."""
        return kl_of_logs(log_q, log_p)


@dataclass(frozen=True)
class GJS(Divergence):
    """tau^2 (beta KL(P || M) + (1 - beta) KL(Q || M)), M = beta P + (1 - beta) Q.

    Generalised Jensen-Shannon, Agarwal et al. 2024 (arXiv 2306.13649, section 2). As beta tends to
    0, GJS / beta tends to KL(P || Q), and as it tends to 1, GJS / (1 - beta) tends to KL(Q || P);
    at 0 and 1 themselves, where it would vanish, those two are taken.
    """

    key: ClassVar[str] = "gjs"
    held: ClassVar[float] = 5.0
    spare: ClassVar[float] = 4.0
    beta: float = 0.5
    tau: float = 1.0

    def __post_init__(self) -> None:
        """Refuse shares outside [0, 1] and temperatures that are not above 0."""
        require_fraction(self.key, "beta", self.beta)
        require_positive(self.key, "tau", self.tau)

    def of_logs(self, log_p: "Tensor", log_q: "Tensor") -> "Tensor":
        """(..., outcomes) twice -> (...)."""
        if self.beta == 0:
            return kl_of_logs(log_p, log_q)
        if self.beta == 1:
            return kl_of_logs(log_q, log_p)
        log_m = mixture(log_p, log_q, self.beta)
        of_p, of_q = kl_of_logs(log_p, log_m), kl_of_logs(log_q, log_m)
        return self.beta * of_p + (1 - self.beta) * of_q


@dataclass(frozen=True)
class SKL(Divergence):
    """Skew KL: tau^2 KL(P || alpha P + (1 - alpha) Q); never above -log alpha.

    DistiLLM (arXiv 2402.03898). alpha = 0 is the KL itself.
    """

    key: ClassVar[str] = "skl"
    held: ClassVar[float] = 4.0
    spare: ClassVar[float] = 4.0
    alpha: float = 0.1
    tau: float = 1.0

    def __post_init__(self) -> None:
        """Refuse shares outside [0, 1), where 1 is always zero, and temperatures not above 0."""
        require_fraction(self.key, "alpha", self.alpha, one=False)
        require_positive(self.key, "tau", self.tau)

    def of_logs(self, log_p: "Tensor", log_q: "Tensor") -> "Tensor":
        """(..., outcomes) twice -> (...)."""
        log_m = mixture(log_p, log_q, self.alpha)
        return kl_of_logs(log_p, log_m)


@dataclass(frozen=True)
class SRKL(Divergence):
    """Skew reverse KL: tau^2 KL(Q || (1 - alpha) P + alpha Q); never above -log alpha.

    DistiLLM (arXiv 2402.03898). alpha = 0 is the reverse KL itself.
    """

    key: ClassVar[str] = "srkl"
    held: ClassVar[float] = 5.0
    spare: ClassVar[float] = 4.0
    alpha: float = 0.1
    tau: float = 1.0

    def __post_init__(self) -> None:
        """Refuse shares outside [0, 1), where 1 is always zero, and temperatures not above 0."""
        require_fraction(self.key, "alpha", self.alpha, one=False)
        require_positive(self.key, "tau", self.tau)

    def of_logs(self, log_p: "Tensor", log_q: "Tensor") -> "Tensor":
        """(..., outcomes) twice -> (...)."""
        log_m = mixture(log_q, log_p, self.alpha)
        return kl_of_logs(log_q, log_m)
