"""BERT-EMD: all layers with all layers, weighed by the earth mover's distance (Li et al. 2020)."""

from dataclasses import dataclass

from toolchain.distill import extract, matching, objectives, reduction, transforms
from toolchain.distill.term import Method, Term, method

__all__ = ["BERTEMD"]


@method("bert_emd")
@dataclass(frozen=True, kw_only=True)
class BERTEMD(Method):
    """L = soft CE + beta (MSE of embeddings + EMD of hidden states + EMD of attention scores).

    arXiv 2010.06133: the distance of two layers is the MSE of their states, through
    one linear map, or of their scores. Layer weights start even and move to layers matched cheaply,
    one set for hidden states and attention. tau = 1 and beta = 0.01 are the authors'; their means
    also run over padding. Numbers of heads must be equal. The paper's student is a TinyBERT after
    its general stage.
    """

    beta: float = 0.01
    tau: float = 1.0
    learn: bool = True

    def terms(self) -> tuple[Term, ...]:
        """Return the prediction term and the three on layers."""
        mse, states, scores = objectives.MSE(), reduction.mean_feat_mean_tok, reduction.mean_pair
        project, emd = (transforms.Project(),), matching.Emd(learn=self.learn)
        soft = objectives.SoftCrossEntropy(self.tau)
        return (
            Term("soft", extract.logits, soft, reduction.mean_logits),
            Term("emb", extract.emb, mse, states, transforms=project, weight=self.beta),
            Term("hidden", extract.hidden, mse, states, emd, project, weight=self.beta),
            Term("attention", extract.attn_scores, mse, scores, emd, weight=self.beta),
        )
