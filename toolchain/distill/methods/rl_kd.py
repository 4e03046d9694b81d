"""RL-KD: a policy learns by reward which teachers to keep for each row (Yuan et al. 2021)."""

from dataclasses import dataclass
from typing import ClassVar, Literal

from toolchain.distill.aggregation import Aggregation, Policy
from toolchain.distill.methods.kd import KD
from toolchain.distill.term import Method, Term, method

__all__ = ["RLKD"]


@method("rl_kd")
@dataclass(frozen=True, kw_only=True)
class RLKD(Method):
    """L = alpha mean over kept teachers of KD_k + (1 - alpha) CE; arXiv 2012.06048.

    pi_k = sigmoid(w_k [sentence vector; CE_k; p_k] + b_k) keeps teacher k for a row. REINFORCE on
    log pi with rewards per row: "labels" is the paper's type 1, -CE of the updated student,
    "labels_and_teachers" its type 2, which also subtracts KD; type 3, accuracy on dev, is left out.
    An episode is one step, its reward taken by one more forward pass after the update (the paper
    waits longer). The row's loss before the step and a running mean are the baseline. Until
    `warmup`, a part of the steps, all teachers are averaged.
    """

    needs_teachers: ClassVar[int] = 2
    init = "teacher_first_k"
    tau: float = 4.0
    alpha: float = 0.5
    reward: Literal["labels", "labels_and_teachers"] = "labels"
    warmup: float = 0.1

    def terms(self) -> tuple[Term, ...]:
        """Return the terms of KD."""
        return KD(tau=self.tau, alpha=self.alpha).terms()

    def aggregation(self) -> Aggregation:
        """Return the policy."""
        return Policy(reward=self.reward, warmup=self.warmup, tau=self.tau)
