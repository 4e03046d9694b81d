"""GLMD: language-model logits at a high temperature, no layers, no labels (Tan et al. 2023)."""

from dataclasses import dataclass

from toolchain.distill import extract, objectives, reduction, transforms
from toolchain.distill.term import Method, Term, method

__all__ = ["GLMD"]


@method("glmd")
@dataclass(frozen=True, kw_only=True)
class GLMD(Method):
    """tau^2 KL of language-model logits on raw text, then soft CE of the task; arXiv 2306.06625.

    tau = 15 in the stage general, over the tokens the student has: with student.vocab it keeps a
    part of the teacher's (GLMD-vc). `prediction_tau` = 1 in the last stage. Known difference: a
    masked language model is compared at its masked positions, the paper's at all real ones.
    """

    tau: float = 15.0
    prediction_tau: float = 1.0

    def terms(self) -> tuple[Term, ...]:
        """Return one term for each of the two stages."""
        soft = objectives.SoftCrossEntropy(tau=self.prediction_tau)
        return (
            Term(
                "language",
                extract.logits,
                objectives.KL(tau=self.tau),
                reduction.mean_logits,
                transforms=(transforms.VocabMap(),),
                stage="general",
            ),
            Term("soft", extract.logits, soft, reduction.mean_logits),
        )
