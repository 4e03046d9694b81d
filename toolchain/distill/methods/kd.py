"""KD: soften both predictions and match them, beside the labels (Hinton et al. 2015)."""

from dataclasses import dataclass

from toolchain.distill import extract, objectives, reduction
from toolchain.distill.term import Method, Term, method

__all__ = ["KD"]


@method("kd")
@dataclass(frozen=True, kw_only=True)
class KD(Method):
    """L = (1 - alpha) CE(y, z_S) + alpha tau^2 KL(p_T(tau) || p_S(tau)); arXiv 1503.02531, sec. 2.

    Only the label space must be equal. The paper is silent on initialisation.
    """

    tau: float = 4.0
    alpha: float = 0.9

    def terms(self) -> tuple[Term, ...]:
        """Return the soft and the hard term."""
        kl = objectives.KL(tau=self.tau)
        return (
            Term("soft", extract.logits, kl, reduction.mean_logits, weight=self.alpha),
            Term(
                "labels",
                extract.labels,
                objectives.CrossEntropy(),
                reduction.mean_logits,
                weight=1 - self.alpha,
            ),
        )
