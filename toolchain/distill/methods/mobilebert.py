"""MobileBERT: block for block, feature maps and attention of an equally deep teacher (Sun 2020)."""

from dataclasses import dataclass, replace
from typing import Literal

from toolchain.distill import extract, matching, objectives, reduction, schedules
from toolchain.distill.methods.kd import KD
from toolchain.distill.surgery import RestBelow
from toolchain.distill.term import Method, Term, method

__all__ = ["MobileBERT"]


@method("mobilebert")
@dataclass(frozen=True, kw_only=True)
class MobileBERT(Method):
    """L_l = MSE(H_l^S, H_l^T) + mean KL(P_l^T || P_l^S), block after block; arXiv 2004.02984.

    "progressive" trains one block at a time, with those below at rest unless `rest` is off;
    "stacked" keeps the terms of the blocks below in the sum. It runs on the task's texts (inter) or
    on raw text (`stage: general`), where after the part `blocks` of it (the paper: 240K of 740K
    steps) pre-training distillation follows, (1 - alpha) MLM + alpha KD with alpha = 0.5, without
    next sentences; `pretraining: false` leaves it out, and with it the need of a teacher with a
    language head. The stage pred is KD(tau, alpha). The first block takes the embeddings with it,
    which the paper copies. Depth, heads and the width between blocks must be equal; the bottleneck
    is the family mobilebert.
    """

    stage: Literal["general", "inter"] = "inter"
    how: Literal["progressive", "stacked"] = "progressive"
    rest: bool = True
    pretraining: bool = True
    blocks: float = 0.324
    tau: float = 1.0
    alpha: float = 0.5

    def terms(self) -> tuple[Term, ...]:
        """Return feature map transfer, attention transfer, pre-training distillation and KD."""
        unlock, same, stage = self._unlock(), matching.Same(), self.stage
        states, queries = reduction.mean_feat_mean_tok, reduction.mean_query
        mse, kl = objectives.MSE(), objectives.KL()
        predictions = KD(tau=self.tau, alpha=self.alpha).terms()
        return (
            Term("features", extract.hidden, mse, states, same, schedule=unlock, stage=stage),
            Term("attention", extract.attn_scores, kl, queries, same, schedule=unlock, stage=stage),
            *(
                replace(term, schedule=schedules.Gate(opens=self.blocks), stage=stage)
                for term in predictions
                if self._pretrains
            ),
            *predictions,
        )

    def surgery(self) -> RestBelow | None:
        """Return what lets the blocks below rest."""
        if self.how == "stacked" or not self.rest:
            return None
        return RestBelow(self._unlock(), stages=(self.stage,))

    @property
    def _pretrains(self) -> bool:
        return self.pretraining and self.stage == "general"

    def _unlock(self) -> schedules.Unlock:
        return schedules.Unlock(self.how, ends=self.blocks if self._pretrains else 1.0)
