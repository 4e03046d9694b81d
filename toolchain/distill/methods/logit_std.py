"""Logit standardisation: KD on z-scores, free of scale and offset (Sun et al. 2024)."""

from dataclasses import dataclass

from toolchain.distill import extract, objectives, reduction, transforms
from toolchain.distill.term import Method, Term, method

__all__ = ["LogitStd"]


@method("logit_std")
@dataclass(frozen=True, kw_only=True)
class LogitStd(Method):
    """L = CE + weight tau^2 KL(softmax(Z(z_T) / tau) || softmax(Z(z_S) / tau)); arXiv 2403.01427.

    Z subtracts each row's mean and divides by its standard deviation. weight = 9 and tau = 2 as in
    the authors' commands. With two classes nothing but the larger one is left of a row.
    """

    tau: float = 2.0
    weight: float = 9.0

    def terms(self) -> tuple[Term, ...]:
        """Return the soft and the hard term."""
        soft = Term(
            "soft",
            extract.logits,
            objectives.KL(tau=self.tau),
            reduction.mean_logits,
            transforms=(transforms.ZScore(),),
            weight=self.weight,
        )
        hard = objectives.CrossEntropy()
        return (soft, Term("labels", extract.labels, hard, reduction.mean_logits))
