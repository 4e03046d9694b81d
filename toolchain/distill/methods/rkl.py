"""RKL: reverse KL, which draws the student to the teacher's largest modes (Gu et al. 2024)."""

from dataclasses import dataclass

from toolchain.distill import extract, objectives, reduction
from toolchain.distill.term import Method, Term, method

__all__ = ["RKL"]


@method("rkl")
@dataclass(frozen=True, kw_only=True)
class RKL(Method):
    """L = tau^2 KL(p_S || p_T), token by token; the divergence of MiniLLM, arXiv 2306.08543.

    MiniLLM takes it over whole sequences sampled from the student, by policy gradient; this is the
    token-level loss on given texts. Labels come with `+finetune@weight`.
    """

    tau: float = 1.0

    def terms(self) -> tuple[Term, ...]:
        """Return the one term."""
        objective = objectives.RKL(tau=self.tau)
        return (Term("soft", extract.logits, objective, reduction.mean_logits),)
