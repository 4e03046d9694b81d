"""LRC-BERT: layers near their own teacher states, far from other sentences' (Fu et al. 2021)."""

from dataclasses import dataclass, replace

from toolchain.distill import extract, matching, objectives, operators, reduction, transforms
from toolchain.distill.operators import Operator
from toolchain.distill.term import Method, Term, method

__all__ = ["LRCBERT"]


@method("lrc_bert")
@dataclass(frozen=True, kw_only=True)
class LRCBERT(Method):
    """L = alpha COS-NCE + beta KD(tau) + gamma CE after a phase of COS-NCE alone; arXiv 2012.07335.

    COS-NCE of anchor i is g_ii + mean over k != i of [2 - (g_ik - g_ii)] / 2 with g = 1 - cos
    averaged over layers and common tokens; the student's states pass a linear map to the teacher's
    width. Phase 1 is the stage inter, phase 2 the stage pred. With `perturb` phase 2 reads the pass
    on embeddings moved up the loss. Weights 1 : 1 : 3 and tau = 1.1 are those of a public
    reimplementation; negatives are the other rows of the batch, over all ranks.
    """

    contrast: float = 1.0
    soft: float = 1.0
    labels: float = 3.0
    tau: float = 1.1
    perturb: bool = True

    def terms(self) -> tuple[Term, ...]:
        """Return phase 1's term and the three of phase 2."""
        mean, kl = reduction.mean_logits, objectives.KL(tau=self.tau)
        hard = objectives.CrossEntropy()
        contrast = Term(
            "contrast",
            extract.hidden,
            objectives.CosNCE(),
            reduction.mean_batch,
            match=matching.Uniform(),
            transforms=(transforms.Project(),),
            layers="mean",
        )
        second = (
            replace(contrast, weight=self.contrast),
            Term("soft", extract.logits, kl, mean, weight=self.soft),
            Term("labels", extract.labels, hard, mean, weight=self.labels),
        )
        view = operators.AdvEmbed.key if self.perturb else "plain"
        return (
            replace(contrast, stage="inter"),
            *(replace(term, view=view) for term in second),
        )

    def operators(self) -> tuple[Operator, ...]:
        """Return what moves the embeddings."""
        return (operators.AdvEmbed(),) if self.perturb else ()
