"""TMKD: a head per teacher and one for the labels, answering by their mean (Yang et al. 2020)."""

from dataclasses import dataclass
from typing import ClassVar

from toolchain.distill import extract, objectives, reduction, surgery
from toolchain.distill.aggregation import Aggregation, Mean
from toolchain.distill.term import Method, Term, method

__all__ = ["TMKD"]


@method("tmkd")
@dataclass(frozen=True, kw_only=True)
class TMKD(Method):
    """L = (1 - alpha) CE(y, h_0(x)) + alpha mean_k MSE(h_k(x), z_k); arXiv 1910.08381.

    Heads h_0 .. h_K read the same pooled vector; the prediction is the mean of their logits. At the
    end they are folded into one head that computes exactly that. MSE is averaged over outcomes.
    alpha is ours: the paper's own could not be read. The paper's first stage, large unlabelled
    question-answer pairs scored by the teachers, is left out: this is its second, on the task.
    """

    needs_teachers: ClassVar[int] = 2
    alpha: float = 0.5

    def terms(self) -> tuple[Term, ...]:
        """Return the term of the teachers' heads and that of the gold head."""
        return (
            Term(
                "heads",
                extract.head,
                objectives.MSE(),
                reduction.mean_feat_mean_logits,
                weight=self.alpha,
            ),
            Term(
                "gold",
                extract.gold,
                objectives.CrossEntropy(),
                reduction.mean_logits,
                weight=1 - self.alpha,
            ),
        )

    def aggregation(self) -> Aggregation:
        """Return the mean over teachers."""
        return Mean()

    def surgery(self) -> surgery.Surgery:
        """Return the heads."""
        return surgery.MultiHead()
