"""CKA: make layers alike up to rotation, shift and scale (Kornblith et al. 2019)."""

from dataclasses import dataclass

from toolchain.distill import extract, matching, objectives, reduction
from toolchain.distill.methods.kd import KD
from toolchain.distill.term import Method, Term, method

__all__ = ["CKA"]


@method("cka")
@dataclass(frozen=True, kw_only=True)
class CKA(Method):
    """L = (1-a) CE + a KD(tau) + weight sum_l (1 - CKA(H_l^S, H_g(l)^T)); arXiv 1905.00414.

    Linear CKA over all real tokens of a micro-batch: any widths, no projection, no scale to tune.
    The paper measures with it and trains nothing; the default weight is ours.
    """

    weight: float = 1.0
    tau: float = 4.0
    alpha: float = 0.9

    def terms(self) -> tuple[Term, ...]:
        """Return the alignment and the terms of KD."""
        alike = Term(
            "cka",
            extract.hidden,
            objectives.CKA(),
            reduction.mean_batch,
            match=matching.Uniform(),
            weight=self.weight,
        )
        return (alike, *KD(tau=self.tau, alpha=self.alpha).terms())
