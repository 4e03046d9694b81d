"""TinyBERT: embeddings, hidden states and attention scores first, predictions after (Jiao 2020)."""

from dataclasses import dataclass

from toolchain.distill import extract, matching, objectives, reduction, transforms
from toolchain.distill.term import Method, Stage, Term, method

__all__ = ["TinyBERT"]


@method("tinybert")
@dataclass(frozen=True, kw_only=True)
class TinyBERT(Method):
    """MSE of embeddings, of hidden states and of attention scores, then soft CE; arXiv 1909.10351.

    Equations 7-10 with all weights 1: the stage "general" on raw text from the teacher before
    fine-tuning, "inter" the same on the task's texts, "pred" soft cross-entropy at tau = 1. One
    linear map is shared by the embeddings and all layers, as in the authors' code. Numbers of
    heads must be equal. Padded keys and rows are left out (the authors' code averages over them).
    The paper's augmentation is `data.augment`, for any method.
    """

    tau: float = 1.0

    def terms(self) -> tuple[Term, ...]:
        """Return the intermediate terms for two stages and the prediction term."""
        return (*self._intermediate("general"), *self._intermediate("inter"), self._prediction())

    def _intermediate(self, stage: Stage) -> tuple[Term, ...]:
        project = (transforms.Project(),)
        mse, states, scores = objectives.MSE(), reduction.mean_feat_mean_tok, reduction.mean_pair
        every = matching.Uniform()
        return (
            Term("emb", extract.emb, mse, states, transforms=project, stage=stage),
            Term("hidden", extract.hidden, mse, states, every, project, stage=stage),
            Term("attention", extract.attn_scores, mse, scores, every, stage=stage),
        )

    def _prediction(self) -> Term:
        return Term(
            "soft", extract.logits, objectives.SoftCrossEntropy(self.tau), reduction.mean_logits
        )
