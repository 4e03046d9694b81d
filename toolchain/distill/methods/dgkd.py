"""DGKD: the teacher and all assistants guide each student, some dropped (Son et al. 2021)."""

from dataclasses import dataclass
from typing import ClassVar

from toolchain.distill.aggregation import Aggregation, BernoulliKeep
from toolchain.distill.methods.kd import KD
from toolchain.distill.term import Method, Term, method

__all__ = ["DGKD"]


@method("dgkd")
@dataclass(frozen=True, kw_only=True)
class DGKD(Method):
    """L = alpha sum_k b_k KD_k + (1 - alpha) CE with P(b_k = 1) = survival; arXiv 2009.08825.

    Guides are the teachers and every assistant before the student; each is dropped for a whole
    step by a coin of its own (the paper drops per sample or batch). A guide that stands alone, that
    of the first assistant, is never dropped. With survival 1 and one guide it is KD.
    """

    needs_assistants: ClassVar[int] = 1
    all_guides: ClassVar[bool] = True
    tau: float = 4.0
    alpha: float = 0.5
    survival: float = 0.75

    def terms(self) -> tuple[Term, ...]:
        """Return the terms of KD."""
        return KD(tau=self.tau, alpha=self.alpha).terms()

    def aggregation(self) -> Aggregation:
        """Return the coins."""
        return BernoulliKeep(self.survival)
