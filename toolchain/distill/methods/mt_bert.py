"""MT-BERT: several teachers, each weighed by how right it is about the row (Wu et al. 2021)."""

from dataclasses import dataclass
from typing import ClassVar

from toolchain.distill import extract, matching, objectives, reduction, transforms
from toolchain.distill.aggregation import Aggregation, Correctness
from toolchain.distill.term import Method, Term, method

__all__ = ["MTBERT"]


@method("mt_bert")
@dataclass(frozen=True, kw_only=True)
class MTBERT(Method):
    """L = sum_k KD_k / (1 + CE_k) + sum_k sum_l MSE(W_k h_k^T, h^S) + CE; arXiv 2106.01023.

    Teacher k counts by its own loss on the gold label, its hidden states are
    projected by a trained W_k, one for all its layers (PKD's skip map, tokens and features
    averaged). Bare teachers of one family and width are first fine-tuned together behind one shared
    head, which makes their hidden spaces agree; the paper pools by attention, here the family's own
    pooling is what they share.
    """

    needs_teachers: ClassVar[int] = 2
    finetunes_together: ClassVar[bool] = True
    init = "teacher_first_k"
    tau: float = 1.0
    hidden: float = 1.0
    labels: float = 1.0

    def terms(self) -> tuple[Term, ...]:
        """Return the soft term, that of hidden states and that of labels."""
        kl, ce = objectives.KL(tau=self.tau), objectives.CrossEntropy()
        return (
            Term("soft", extract.logits, kl, reduction.mean_logits),
            Term(
                "hidden",
                extract.hidden,
                objectives.MSE(),
                reduction.mean_feat_mean_tok,
                match=matching.Skip(),
                transforms=(transforms.Project(side="teacher", group=""),),
                weight=self.hidden,
                every_teacher=True,
            ),
            Term("labels", extract.labels, ce, reduction.mean_logits, weight=self.labels),
        )

    def aggregation(self) -> Aggregation:
        """Return 1 / (1 + CE_k)."""
        return Correctness()
