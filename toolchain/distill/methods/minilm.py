"""MiniLM: the last block's attention maps and relations of values (Wang et al. 2020)."""

from dataclasses import dataclass

from toolchain.distill import extract, matching, objectives, reduction, transforms
from toolchain.distill.term import Method, Stage, Term, method

__all__ = ["MiniLM"]


@method("minilm")
@dataclass(frozen=True, kw_only=True)
class MiniLM(Method):
    """L = mean KL(P^T || P^S) + mean KL(VR^T || VR^S), VR = softmax(V V^T / sqrt(d_h)).

    arXiv 2002.10957: maps per attention head, averaged over heads and valid queries.
    Any width and depth; numbers of heads must be equal (minilm_v2 lifts that). The paper distils on
    raw text and fine-tunes afterwards, through a teacher assistant when the gap is large; `stage`
    is where it runs here.
    """

    teacher_layer: int = -1
    stage: Stage = "inter"

    def terms(self) -> tuple[Term, ...]:
        """Return the attention and the value term."""
        kl, mean, last = objectives.KL(), reduction.mean_query, matching.Last(self.teacher_layer)
        own = (transforms.Relation(own_heads=True),)
        return (
            Term("attention", extract.attn_scores, kl, mean, last, stage=self.stage),
            Term("values", extract.v, kl, mean, last, own, stage=self.stage),
        )
