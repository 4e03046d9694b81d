"""DKD: the gold class against the rest, and the rest among themselves (Zhao et al. 2022)."""

from dataclasses import dataclass

from toolchain.distill import extract, objectives, reduction
from toolchain.distill.schedules import Constant, Linear, Schedule
from toolchain.distill.term import Method, Term, method

__all__ = ["DKD"]


@method("dkd")
@dataclass(frozen=True, kw_only=True)
class DKD(Method):
    """L = CE + ramp (alpha tau^2 KL(b_T || b_S) + beta tau^2 KL(p^_T || p^_S)); arXiv 2203.08679.

    b = (p_y, 1 - p_y); p^ are the probabilities of the other classes among themselves, the label's
    logit removed. alpha = 1, beta = 8 (2 to 8), tau = 4; the authors' code lets the soft part grow
    in a straight line over the first 20 of 240 epochs (`warmup`, a part of the stage). With two
    classes nothing is left of the second part.
    """

    tau: float = 4.0
    alpha: float = 1.0
    beta: float = 8.0
    warmup: float = 20 / 240

    def terms(self) -> tuple[Term, ...]:
        """Return the two soft terms and the labels."""
        tckd, nckd = objectives.TCKD(tau=self.tau), objectives.NCKD(tau=self.tau)
        mean, logits = reduction.mean_logits, extract.logits
        ramp: Schedule = Linear(0.0, 1.0, ends=self.warmup) if self.warmup else Constant()
        return (
            Term("target", logits, tckd, mean, weight=self.alpha, schedule=ramp),
            Term("rest", logits, nckd, mean, weight=self.beta, schedule=ramp),
            Term("labels", extract.labels, objectives.CrossEntropy(), mean),
        )
