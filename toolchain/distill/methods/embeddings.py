"""Embeddings: the student's vector of a text is to be the teacher's (Reimers and Gurevych 2020)."""

from dataclasses import dataclass
from typing import Literal

from toolchain.distill import extract, objectives, reduction
from toolchain.distill.term import Method, Term, method

__all__ = ["Embeddings"]


@method("embeddings")
@dataclass(frozen=True, kw_only=True)
class Embeddings(Method):
    """L = 1 - cos(e_S, e_T), or |e_S - e_T|^2 with distance=mse; arXiv 2004.09813, eq. 1.

    e are the pooled vectors of both models, normalised where they ship so; then the two distances
    are the same but for a factor of 2. Needs no labels, and equal widths: without them, use
    similarities. The paper's distance is mse, averaged over features.
    """

    distance: Literal["cos", "mse"] = "cos"

    def terms(self) -> tuple[Term, ...]:
        """Return the one term."""
        if self.distance == "mse":
            mse, mean = objectives.MSE(), reduction.sum_feat_mean_cls
            return (Term("vectors", extract.pooled, mse, mean),)
        return (Term("vectors", extract.pooled, objectives.Cos(), reduction.mean_cls),)
