"""Uncertainty: what the student is unsure of it learns from a smaller teacher (Li et al. 2021)."""

from dataclasses import dataclass
from typing import ClassVar, Literal

from toolchain.distill.aggregation import Aggregation, EntropyRank
from toolchain.distill.methods.kd import KD
from toolchain.distill.term import Method, Term, method

__all__ = ["Uncertainty"]


@method("uncertainty")
@dataclass(frozen=True, kw_only=True)
class Uncertainty(Method):
    """L = alpha sum_k w_k(u) KD_k + (1 - alpha) CE with u = H(p_S) / log C; arXiv 2109.11295.

    Teachers are ordered by size. `how` "hard": the batch ranked by u is cut into K equal parts, the
    most uncertain one learns from the smallest teacher. "soft": weights 1 - u for the larger of two
    teachers and u for the smaller, linear in between for more, summing to K as public code has it
    (the paper's sum to 1, so its alpha is half as much here). Selecting data by u and moving
    between logits and features are not part of it.
    """

    needs_teachers: ClassVar[int] = 2
    init = "teacher_first_k"
    tau: float = 4.0
    alpha: float = 0.5
    how: Literal["hard", "soft"] = "soft"

    def terms(self) -> tuple[Term, ...]:
        """Return the terms of KD."""
        return KD(tau=self.tau, alpha=self.alpha).terms()

    def aggregation(self) -> Aggregation:
        """Return the weights by entropy."""
        return EntropyRank(how=self.how)
