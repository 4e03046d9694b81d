"""BERT-of-Theseus: student blocks replace the teacher's at random, on labels (Xu et al. 2020)."""

from dataclasses import dataclass
from typing import ClassVar

from toolchain.distill import extract, objectives, reduction
from toolchain.distill.surgery import ReplaceModules
from toolchain.distill.term import Method, Start, Term, method

__all__ = ["Theseus"]


@method("theseus")
@dataclass(frozen=True, kw_only=True)
class Theseus(Method):
    """y_i = r_i stu_i(x) + (1 - r_i) tea_i(x), r_i ~ Bernoulli(p); arXiv 2002.02925, equations 3-7.

    The only loss is that on labels. p = min(1, p0 + k t) reaches 1 at `until` of the stage (eq. 7;
    with `ramp` off it is constant, eq. 4), then the student is trained as a whole; p0 = 0.3 and
    0.66 are GLMKD's. The teacher rests, its embeddings and head are the student's and rest too
    until p = 1. Differences: a draw without any student block, which would train nothing, is drawn
    again; depths need not divide; one learning rate schedule spans both phases.
    """

    init: ClassVar[Start | None] = "teacher_first_k"
    p0: float = 0.3
    until: float = 0.66
    ramp: bool = True

    def terms(self) -> tuple[Term, ...]:
        """Return the loss on labels."""
        hard = objectives.CrossEntropy()
        return (Term("labels", extract.labels, hard, reduction.mean_logits),)

    def surgery(self) -> ReplaceModules:
        """Return the replacement of blocks."""
        return ReplaceModules(start=self.p0, until=self.until, ramp=self.ramp)
