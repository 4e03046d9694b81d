"""Annealing-KD: regress on logits that grow in steps, then labels alone (Jafari et al. 2021)."""

from dataclasses import dataclass

from toolchain.distill import extract, objectives, reduction, transforms
from toolchain.distill.term import Method, Term, method

__all__ = ["AnnealingKD"]


@method("annealing_kd")
@dataclass(frozen=True, kw_only=True)
class AnnealingKD(Method):
    """Stage "inter": L = |z_S - phi z_T|^2, then stage "pred": L = CE(y, z_S); arXiv 2104.07163.

    phi = 1 - (T - 1) / tau_max, T falling from tau_max to 1 in equal parts of the stage; tau_max is
    7 for language tasks. The second stage starts from the first one's best checkpoint on dev.
    Squares are summed over classes, averaged over rows.
    """

    tau_max: int = 7

    def terms(self) -> tuple[Term, ...]:
        """Return the regression of the first stage and the labels of the second."""
        regression = Term(
            "regression",
            extract.logits,
            objectives.MSE(),
            reduction.sum_feat_mean_logits,
            transforms=(transforms.Anneal(tau_max=self.tau_max),),
            stage="inter",
        )
        hard = objectives.CrossEntropy()
        return (regression, Term("labels", extract.labels, hard, reduction.mean_logits))
