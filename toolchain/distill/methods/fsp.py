"""FSP: match how features flow from layer to layer, then train the task (Yim et al. 2017)."""

from dataclasses import dataclass

from toolchain.distill import extract, matching, objectives, reduction, transforms
from toolchain.distill.methods.kd import KD
from toolchain.distill.term import Method, Term, method

__all__ = ["FSP"]


@method("fsp")
@dataclass(frozen=True, kw_only=True)
class FSP(Method):
    """L = sum of MSE(G_S, G_T), G = H_l' H_(l+1) / tokens, in "inter"; CVPR 2017.

    A step leads from one layer of the uniform map, the embeddings included, to the next. The widths
    are made equal by one trained linear map over all layers (the paper needs equal widths). Mean
    over the elements of G, where the paper sums. The task follows in "pred": the paper uses labels
    alone (alpha = 0).
    """

    weight: float = 1.0
    tau: float = 4.0
    alpha: float = 0.9

    def terms(self) -> tuple[Term, ...]:
        """Return the flow of the first stage and the terms of KD."""
        flow = Term(
            "flow",
            extract.hidden,
            objectives.FlowMSE(),
            reduction.mean_cls,
            match=matching.Stack(),
            transforms=(transforms.Project(),),
            weight=self.weight,
            stage="inter",
        )
        return (flow, *KD(tau=self.tau, alpha=self.alpha).terms())
