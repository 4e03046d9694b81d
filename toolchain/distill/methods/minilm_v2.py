"""MiniLMv2: match the Q-Q, K-K and V-V relations of the last block (Wang et al. 2021)."""

from dataclasses import dataclass

from toolchain.distill import extract, matching, objectives, reduction, transforms
from toolchain.distill.extract import Extract
from toolchain.distill.term import Method, Stage, Term, method

__all__ = ["MiniLMv2"]


@method("minilm_v2")
@dataclass(frozen=True, kw_only=True)
class MiniLMv2(Method):
    """L = sum over x in {Q, K, V} of mean KL(R_x^T || R_x^S); arXiv 2012.15828, eq. 2-5.

    Relation heads are free of the attention heads, so any width and number of heads fits. Base-size
    teachers give their last layer; large ones an upper-middle one (21 of 24 for BERT-large). The
    paper distils on raw text and fine-tunes afterwards; here on raw text where there is some, else
    on the task's own texts.
    """

    teacher_layer: int = -1
    relation_heads: int | None = None
    stage: Stage = "inter"

    def terms(self) -> tuple[Term, ...]:
        """Return one term per relation."""
        return tuple(
            self._relation(name, source)
            for name, source in (("qq", extract.q), ("kk", extract.k), ("vv", extract.v))
        )

    def _relation(self, name: str, source: Extract) -> Term:
        return Term(
            name,
            source,
            objectives.KL(),
            reduction.mean_query,
            match=matching.Last(self.teacher_layer),
            transforms=(transforms.Relation(self.relation_heads),),
            stage=self.stage,
        )
