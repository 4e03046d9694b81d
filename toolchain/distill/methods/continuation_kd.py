"""Continuation-KD: a forgiving regression on logits turns into labels (Jafari et al. 2022)."""

from dataclasses import dataclass

from toolchain.distill import extract, objectives, reduction
from toolchain.distill.schedules import LinearThen
from toolchain.distill.term import Method, Term, method

__all__ = ["ContinuationKD"]


@method("continuation_kd")
@dataclass(frozen=True, kw_only=True)
class ContinuationKD(Method):
    """L = psi CE + (1 - psi) max(0, |z_S - phi z_T|^2 - margin phi); arXiv 2212.05998.

    phi = 1 - (T - 1) / tau_max, T falling from 10 to 1 in equal parts of the run (`ends`). psi
    grows from 0 to `half` in a straight line `until` two thirds of the run, then jumps to 1 (the
    paper: i / 40 in epoch i up to 20 of 30, then 1). The hinge is taken row by row, then averaged.
    With margin = 0, half = 0 and ends = until it is Annealing-KD.
    """

    margin: float = 1.0
    tau_max: int = 10
    ends: float = 1.0
    until: float = 2 / 3
    half: float = 0.5

    def terms(self) -> tuple[Term, ...]:
        """Return the regression and the labels, with opposite schedules."""
        mean = reduction.mean_logits
        regression = objectives.HingeMSE(self.margin, self.tau_max, self.ends)
        fading = LinearThen(1.0, 1.0 - self.half, self.until, 0.0)
        growing = LinearThen(0.0, self.half, self.until, 1.0)
        return (
            Term("regression", extract.logits, regression, mean, schedule=fading),
            Term("labels", extract.labels, objectives.CrossEntropy(), mean, schedule=growing),
        )
