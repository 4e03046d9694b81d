"""GKD: the teacher judges what the student itself would say, half of the time (Agarwal 2024)."""

from dataclasses import dataclass

from toolchain.distill import extract, objectives, operators, reduction
from toolchain.distill.operators import Operator
from toolchain.distill.term import Method, Term, method

__all__ = ["OnPolicy"]


@method("gkd_onpolicy")
@dataclass(frozen=True, kw_only=True)
class OnPolicy(Method):
    """L = GJS_beta(P, Q) on answers sampled from the student, or on the data's; arXiv 2306.13649.

    Algorithm 1: with probability `share` (the paper's lambda, 0.5) a step's answers are the
    student's own, at temperature `sampling`; no gradient flows through the sampling. beta is one
    of 0.1, 0.5, 0.9 in the paper. "Generalized knowledge distillation" here has nothing to do with
    the GKD framework of arXiv 2306.06629. Decoders only; there are no gold labels to learn from.
    """

    beta: float = 0.5
    tau: float = 1.0
    share: float = 0.5
    sampling: float = 1.0

    def terms(self) -> tuple[Term, ...]:
        """Return the one term."""
        gjs = objectives.GJS(beta=self.beta, tau=self.tau)
        return (Term("soft", extract.logits, gjs, reduction.mean_logits),)

    def operators(self) -> tuple[Operator, ...]:
        """Return what samples the answers."""
        return (operators.StudentGenerate(self.share, self.sampling),)
