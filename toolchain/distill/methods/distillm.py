"""DistiLLM: skewed divergences on the student's own answers and the data's (Ko et al. 2024)."""

from dataclasses import dataclass
from typing import Literal

from toolchain.distill import extract, objectives, operators, reduction
from toolchain.distill.objectives import Objective
from toolchain.distill.operators import Operator
from toolchain.distill.term import Method, Term, method

__all__ = ["DistiLLM"]


@method("distillm")
@dataclass(frozen=True, kw_only=True)
class DistiLLM(Method):
    """L = SRKL_alpha = KL(Q || (1 - alpha) P + alpha Q), or SKL_alpha; arXiv 2402.03898, eq. 3-6.

    alpha = 0.1. With probability `share` a step's answers are sampled from the student. Known
    differences: the paper raises that probability as the validation loss rises and draws answers
    from a buffer of older ones, to generate less; here it is constant and every answer is new.
    Decoders only.
    """

    skew: Literal["srkl", "skl"] = "srkl"
    alpha: float = 0.1
    tau: float = 1.0
    share: float = 0.5
    sampling: float = 1.0

    def terms(self) -> tuple[Term, ...]:
        """Return the one term."""
        objective: Objective = objectives.SRKL(alpha=self.alpha, tau=self.tau)
        if self.skew == "skl":
            objective = objectives.SKL(alpha=self.alpha, tau=self.tau)
        return (Term("soft", extract.logits, objective, reduction.mean_logits),)

    def operators(self) -> tuple[Operator, ...]:
        """Return what samples the answers."""
        return (operators.StudentGenerate(self.share, self.sampling),)
