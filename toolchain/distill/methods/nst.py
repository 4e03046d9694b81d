"""NST: match inner products of all pairs of tokens, layer by layer (Huang and Wang 2017)."""

from dataclasses import dataclass

from toolchain.distill import extract, matching, objectives, reduction, transforms
from toolchain.distill.methods.kd import KD
from toolchain.distill.term import Method, Term, method

__all__ = ["NST"]


@method("nst")
@dataclass(frozen=True, kw_only=True)
class NST(Method):
    """L = (1-a) CE + a KD(tau) + weight sum_l mean_ij (s_i's_j / d_S - t_i't_j / d_T)^2.

    The squared maximum mean discrepancy of features with kernel (x'y)^2 (arXiv 1707.01219):
    any widths, but the scales of both models count. Differences: the paper divides each feature by
    its length over positions, and has KD as an option (alpha = 0 leaves it out). The default weight
    is ours.
    """

    weight: float = 1.0
    tau: float = 4.0
    alpha: float = 0.9

    def terms(self) -> tuple[Term, ...]:
        """Return the Gram matrices and the terms of KD."""
        gram = Term(
            "gram",
            extract.hidden,
            objectives.MSE(),
            reduction.mean_pair,
            match=matching.Uniform(),
            transforms=(transforms.Gram("token"),),
            weight=self.weight,
        )
        return (gram, *KD(tau=self.tau, alpha=self.alpha).terms())
