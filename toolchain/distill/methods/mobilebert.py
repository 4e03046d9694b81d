"""MobileBERT: block for block, feature maps and attention of an equally deep teacher (Sun 2020)."""

from dataclasses import dataclass
from typing import Literal

from toolchain.distill import extract, matching, objectives, reduction, schedules
from toolchain.distill.methods.kd import KD
from toolchain.distill.term import Method, Stage, Term, method

__all__ = ["MobileBERT"]


@method("mobilebert")
@dataclass(frozen=True, kw_only=True)
class MobileBERT(Method):
    """L_l = MSE(H_l^S, H_l^T) + mean KL(P_l^T || P_l^S), block after block; then KD(tau, alpha).

    arXiv 2004.02984, alpha = 0.5. "progressive" trains one block's terms at a time,
    "stacked" keeps those of the blocks below in the sum; the paper freezes the blocks below or
    lowers their learning rate, here they go on learning. It runs on raw text (stage general) or the
    task's texts (inter); predictions are matched in the stage pred. Depth, heads and the width
    between blocks must be equal. The bottleneck is an architecture, not part of this loss.
    """

    stage: Stage = "inter"
    how: Literal["progressive", "stacked"] = "progressive"
    tau: float = 1.0
    alpha: float = 0.5

    def terms(self) -> tuple[Term, ...]:
        """Return feature map transfer, attention transfer and the terms of KD."""
        unlock, same = schedules.Unlock(self.how), matching.Same()
        features = Term(
            "features",
            extract.hidden,
            objectives.MSE(),
            reduction.mean_feat_mean_tok,
            match=same,
            schedule=unlock,
            stage=self.stage,
        )
        attention = Term(
            "attention",
            extract.attn_scores,
            objectives.KL(),
            reduction.mean_query,
            match=same,
            schedule=unlock,
            stage=self.stage,
        )
        return (features, attention, *KD(tau=self.tau, alpha=self.alpha).terms())
