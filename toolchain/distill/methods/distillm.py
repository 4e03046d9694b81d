"""DistiLLM: skewed divergences on the data and on what the student said (Ko et al. 2024)."""

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

    alpha = 0.1. Answers are the student's own with a probability that starts at `share` and grows
    by `rise` each time the loss on dev has risen by `margin`: new ones, less and less of them, or
    ones of a buffer of `capacity` rows (section 3.2; the settings of the authors' code, which
    starts at 0: a run whose loss on dev never rises learns from the data alone; with `share` at 0.5
    the student speaks in half of the steps from the first one on). Decoders only.
    """

    skew: Literal["srkl", "skl"] = "srkl"
    alpha: float = 0.1
    tau: float = 1.0
    share: float = 0.0
    rise: float = 0.1
    margin: float = 0.1
    capacity: int = 1000
    sampling: float = 1.0

    def terms(self) -> tuple[Term, ...]:
        """Return the one term."""
        objective: Objective = objectives.SRKL(alpha=self.alpha, tau=self.tau)
        if self.skew == "skl":
            objective = objectives.SKL(alpha=self.alpha, tau=self.tau)
        return (Term("soft", extract.logits, objective, reduction.mean_logits),)

    def operators(self) -> tuple[Operator, ...]:
        """Return what samples the answers and keeps them."""
        replay = operators.StudentReplay(
            share=self.share,
            rise=self.rise,
            margin=self.margin,
            capacity=self.capacity,
            tau=self.sampling,
        )
        return (replay,)
