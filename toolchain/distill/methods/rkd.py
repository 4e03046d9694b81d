"""RKD: match relative distances and angles between the sequences of a batch (Park et al. 2019)."""

from dataclasses import dataclass
from typing import Literal

from toolchain.distill import extract, matching, objectives, reduction, transforms
from toolchain.distill.methods.finetune import FineTune
from toolchain.distill.term import Method, Term, method

__all__ = ["RKD"]


@method("rkd")
@dataclass(frozen=True, kw_only=True)
class RKD(Method):
    """L = CE(y, z_S) + distance * RKD_D + angle * RKD_A; arXiv 1904.05068.

    Huber distances of pairwise distances divided by their mean, and of cosines of angles of all
    triples, between pooled states of the last block. Any widths; free of rotation, shift and scale.
    The weights 25 and 50 are the paper's, whose embeddings are those before the classifier; add
    predictions with rkd+kd. Relations are those of the whole batch, over all ranks.
    """

    distance: float = 25.0
    angle: float = 50.0
    pool: Literal["cls", "mean"] = "cls"

    def terms(self) -> tuple[Term, ...]:
        """Return both relations and the labels."""
        read, last, pooled = extract.hidden, matching.Last(), transforms.Pool(self.pool)
        return (
            Term(
                "distance",
                read,
                objectives.RKDDistance(),
                reduction.mean_sample,
                match=last,
                transforms=(pooled, transforms.PairDist("l2", "sample")),
                weight=self.distance,
            ),
            Term(
                "angle",
                read,
                objectives.SampleAngles(),
                reduction.mean_cls,
                match=last,
                transforms=(pooled,),
                weight=self.angle,
            ),
            *FineTune().terms(),
        )
