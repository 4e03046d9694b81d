"""SKL: KL from the teacher to a mixture with it, with bounded gradients (Ko et al. 2024)."""

from dataclasses import dataclass

from toolchain.distill import extract, objectives, reduction
from toolchain.distill.term import Method, Term, method

__all__ = ["SKL"]


@method("skl")
@dataclass(frozen=True, kw_only=True)
class SKL(Method):
    """L = tau^2 KL(P || alpha P + (1 - alpha) Q), alpha = 0.1; DistiLLM, arXiv 2402.03898.

    P is the teacher, Q the student. The paper adds texts that the student wrote from a replay
    buffer; here all texts are given ones. Labels come with `+finetune@weight`.
    """

    alpha: float = 0.1
    tau: float = 1.0

    def terms(self) -> tuple[Term, ...]:
        """Return the one term."""
        objective = objectives.SKL(alpha=self.alpha, tau=self.tau)
        return (Term("soft", extract.logits, objective, reduction.mean_logits),)
