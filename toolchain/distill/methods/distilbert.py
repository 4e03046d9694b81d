"""DistilBERT: soft predictions, labels and the direction of the last states (Sanh et al. 2019)."""

from dataclasses import dataclass, replace
from typing import ClassVar, Literal

from toolchain.distill import extract, matching, objectives, reduction, transforms
from toolchain.distill.term import Method, Stage, Term, method

__all__ = ["DistilBERT"]


@method("distilbert")
@dataclass(frozen=True, kw_only=True)
class DistilBERT(Method):
    """L = 5 tau^2 KL + 2 CE + mean over tokens of 1 - cos(H_L^S, H_L^T); arXiv 1910.01108.

    Weights 5 : 2 : 1 and tau = 2 of the authors' runs: on raw text with the language head (stage
    general, predictions at the masked positions alone) and on the task with its own. The student
    has every second layer and the width of its teacher; with `project` a linear map takes other
    widths to the teacher's.
    """

    init: ClassVar[Literal["teacher_uniform"]] = "teacher_uniform"
    tau: float = 2.0
    soft: float = 5.0
    labels: float = 2.0
    cos: float = 1.0
    project: bool = False

    def terms(self) -> tuple[Term, ...]:
        """Return the same three terms for the general and the task's stage."""
        return (*self._stage("general"), *self._stage("pred"))

    def _stage(self, stage: Stage) -> tuple[Term, ...]:
        mean, kl = reduction.mean_logits, objectives.KL(tau=self.tau)
        hard = objectives.CrossEntropy()
        cos = Term(
            "cos",
            extract.hidden,
            objectives.Cos(),
            reduction.mean_tok,
            match=matching.Last(),
            transforms=(transforms.Project(),) if self.project else (),
            weight=self.cos,
        )
        parts = (
            Term("soft", extract.logits, kl, mean, weight=self.soft),
            Term("labels", extract.labels, hard, mean, weight=self.labels),
            cos,
        )
        return tuple(replace(part, stage=stage) for part in parts)
