"""GJS: generalised Jensen-Shannon divergence between the predictions (Agarwal et al. 2024)."""

from dataclasses import dataclass

from toolchain.distill import extract, objectives, reduction
from toolchain.distill.term import Method, Term, method

__all__ = ["GJS"]


@method("gjs")
@dataclass(frozen=True, kw_only=True)
class GJS(Method):
    """L = beta KL(P || M) + (1 - beta) KL(Q || M), M = beta P + (1 - beta) Q; arXiv 2306.13649.

    Section 2. P is the teacher, Q the student; beta = 0 and 1 are the forward and the reverse KL.
    The paper tries 0.1, 0.5 and 0.9, and samples a part of the texts from the student; here all
    texts are given ones. Labels come with `+finetune@weight`.
    """

    beta: float = 0.5
    tau: float = 1.0

    def terms(self) -> tuple[Term, ...]:
        """Return the one term."""
        objective = objectives.GJS(beta=self.beta, tau=self.tau)
        return (Term("soft", extract.logits, objective, reduction.mean_logits),)
