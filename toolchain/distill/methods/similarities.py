"""Similarities: texts of a batch are as alike to the student as to the teacher (Tung 2019)."""

from dataclasses import dataclass

from toolchain.distill import extract, objectives, reduction, transforms
from toolchain.distill.term import Method, Term, method

__all__ = ["Similarities"]


@method("similarities")
@dataclass(frozen=True, kw_only=True)
class Similarities(Method):
    """L = weight / B^2 |S_S - S_T|_F^2, S the cosines of all pairs of a batch; arXiv 1907.09682.

    Of what ships, the pooled vectors, so widths may differ and no projection is left behind. Needs
    no labels. Differences from SP: cosines instead of rows of inner products divided by their
    lengths, so that a score means the same as the teacher's; no labels. The weight is ours: squares
    of differences of cosines are small. Relations are those of the whole batch, over all ranks.
    """

    weight: float = 10.0

    def terms(self) -> tuple[Term, ...]:
        """Return the one term."""
        return (
            Term(
                "similarities",
                extract.pooled,
                objectives.MSE(),
                reduction.mean_sample,
                transforms=(transforms.L2Norm(), transforms.Gram("sample")),
                weight=self.weight,
            ),
        )
