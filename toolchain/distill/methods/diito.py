"""DIITO: also agree where both models run with another sentence's activations (Wu et al. 2022)."""

from dataclasses import dataclass, replace
from typing import ClassVar, Literal

from toolchain.distill import extract, matching, objectives, operators, reduction, transforms
from toolchain.distill.operators import Operator
from toolchain.distill.term import Method, Stage, Term, method

__all__ = ["DIITO"]


@method("diito")
@dataclass(frozen=True, kw_only=True)
class DIITO(Method):
    """L = (CE + KD + cos of last hidden states + KD on counterfactuals) / 4; arXiv 2112.02505.

    Section 3, weights and tau = 2 of the authors' runs: on raw text with the language head (stage
    general) and on the task with its own. Counterfactuals come from the operator `interchange`;
    `align` and `span` are its settings. The students of the paper are as wide as their teacher;
    here a linear map, the identity at first, takes the student's states to the teacher's width.
    """

    init: ClassVar[Literal["teacher_uniform"]] = "teacher_uniform"
    tau: float = 2.0
    span: float = 0.3
    align: Literal["full", "middle", "late"] = "full"

    def terms(self) -> tuple[Term, ...]:
        """Return the same four terms for the general and the task's stage."""
        return (*self._stage("general"), *self._stage("pred"))

    def operators(self) -> tuple[Operator, ...]:
        """Return what makes the counterfactual."""
        return (operators.Interchange(self.span, self.align),)

    def _stage(self, stage: Stage) -> tuple[Term, ...]:
        mean, kl = reduction.mean_logits, objectives.KL(tau=self.tau)
        hard = objectives.CrossEntropy()
        parts = (
            Term("labels", extract.labels, hard, mean, weight=0.25),
            Term("soft", extract.logits, kl, mean, weight=0.25),
            Term(
                "cos",
                extract.hidden,
                objectives.Cos(),
                reduction.mean_tok,
                match=matching.Last(),
                transforms=(transforms.Project(),),
                weight=0.25,
            ),
            Term("counterfactual", extract.logits, kl, mean, weight=0.25, view="interchange"),
        )
        return tuple(replace(part, stage=stage) for part in parts)
