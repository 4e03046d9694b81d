"""AKL: forward and reverse KL weighed by where the predictions differ (Wu et al. 2025)."""

from dataclasses import dataclass

from toolchain.distill import extract, objectives, reduction
from toolchain.distill.term import Method, Term, method

__all__ = ["AKL"]


@method("akl")
@dataclass(frozen=True, kw_only=True)
class AKL(Method):
    """L = tau^2 (g_head KL(P || Q) + g_tail KL(Q || P)) / (g_head + g_tail); arXiv 2404.02657.

    The head holds at least mu = 0.5 of the teacher's mass; g is the sum of |p - q| over head or
    tail, without gradient. Labels come with `+finetune@weight`.
    """

    mu: float = 0.5
    tau: float = 1.0

    def terms(self) -> tuple[Term, ...]:
        """Return the one term."""
        objective = objectives.AKL(mu=self.mu, tau=self.tau)
        return (Term("soft", extract.logits, objective, reduction.mean_logits),)
