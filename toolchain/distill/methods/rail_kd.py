"""RAIL-KD: pooled states of teacher layers drawn anew in every epoch (Haidar et al. 2022)."""

from dataclasses import dataclass, replace

from toolchain.distill import extract, matching, objectives, reduction, transforms
from toolchain.distill.methods.kd import KD
from toolchain.distill.term import Method, Term, method

__all__ = ["RAILKD"]

_THIRD = 1 / 3


@method("rail_kd")
@dataclass(frozen=True, kw_only=True)
class RAILKD(Method):
    """L = (CE + KD(tau) + sum_l |u_l^S - u_l^T|^2) / 3, u = unit(W mean over tokens of h).

    arXiv 2109.10164: as many inner layers of the teacher as the student has, drawn
    per epoch and sorted; both sides are projected to `width` features. With `concatenated` all
    layers of a side make one vector before the projection: as each layer has a block W_l of its
    own, that is the sum of the projected layers. A teacher layer keeps its W_l over draws. The
    weights of the layers are 1 and tau is ours.
    """

    concatenated: bool = False
    width: int = 128
    tau: float = 1.0

    def terms(self) -> tuple[Term, ...]:
        """Return the layers' term and those of KD."""
        layers = Term(
            "layers",
            extract.hidden,
            # Twice 1 - cos is the squared distance of unit vectors.
            objectives.Cos(),
            reduction.mean_cls,
            match=matching.Random(summed=self.concatenated),
            transforms=(
                transforms.Pool("mean"),
                transforms.Project(side="both", to=self.width, owner="layer"),
            ),
            weight=2 * _THIRD,
        )
        return (layers, *(replace(term, weight=_THIRD) for term in KD(tau=self.tau).terms()))
