"""TAID: a target that moves from the student's predictions to the teacher's (Shing et al. 2025)."""

from dataclasses import dataclass

from toolchain.distill import extract, objectives, reduction
from toolchain.distill.term import Method, Term, method

__all__ = ["TAID"]


@method("taid")
@dataclass(frozen=True, kw_only=True)
class TAID(Method):
    """L = tau^2 KL(softmax(((1 - t) sg[z_S] + t z_T) / tau) || p_S); arXiv 2501.16937.

    t begins at 0.4 and never falls behind a straight line to 1; on top of it t grows by
    alpha sigmoid(m) (1 - t) per step, m being a running mean (0.99) of the loss's relative drop.
    The authors' code takes that drop of the cross-entropy; here it is the KL's. Labels come with
    `+finetune@weight`.
    """

    start: float = 0.4
    end: float = 1.0
    alpha: float = 5e-4
    momentum: float = 0.99
    tau: float = 1.0

    def terms(self) -> tuple[Term, ...]:
        """Return the one term."""
        objective = objectives.TAID(
            start=self.start,
            end=self.end,
            alpha=self.alpha,
            momentum=self.momentum,
            tau=self.tau,
        )
        return (Term("soft", extract.logits, objective, reduction.mean_logits),)
