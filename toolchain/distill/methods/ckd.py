"""CKD: match relations between words and between layers, pairs and triples (Park et al. 2021)."""

from dataclasses import dataclass

from toolchain.distill import extract, matching, objectives, reduction, transforms
from toolchain.distill.methods.kd import KD
from toolchain.distill.term import Method, Term, method

__all__ = ["CKD"]


@method("ckd")
@dataclass(frozen=True, kw_only=True)
class CKD(Method):
    """L = (1-a) CE + a KD(tau) + WR_pair + LTR_pair + b WR_tri + b LTR_tri; arXiv 2109.08359.

    Word relations (WR) stand within a layer, layer transforming relations (LTR) between layers
    0..L at one token. Pairs: KL of softmaxes of cosines, a vector with itself left out.
    Triples: squared error of cosines of angles, words in a window of 21. No widths or heads need
    agree. Defaults are those of GLMKD. Differences: neighbours outside the sequence or in padding
    are left out (public code repeats the border token); triples count per token, then per batch;
    decoders look back only.
    """

    tau: float = 3.0
    alpha: float = 0.9
    triples: float = 10.0
    window: int = 21

    def terms(self) -> tuple[Term, ...]:
        """Return four relations and the terms of KD."""
        return (*self._words(), *self._layers(), *KD(tau=self.tau, alpha=self.alpha).terms())

    def _words(self) -> tuple[Term, Term]:
        every = matching.Uniform()
        cosines, kl = (transforms.PairDist("cos", "token"),), objectives.KL()
        angles = objectives.WindowAngles(self.window)
        return (
            Term("wr_pair", extract.hidden, kl, reduction.mean_query, every, cosines),
            Term(
                "wr_triple",
                extract.hidden,
                angles,
                reduction.mean_tok,
                every,
                weight=self.triples,
            ),
        )

    def _layers(self) -> tuple[Term, Term]:
        stack, tokens = matching.Stack(), reduction.mean_feat_mean_tok
        cosines = (transforms.PairDist("cos", "layer"),)
        angles = objectives.LayerAngles()
        return (
            Term("ltr_pair", extract.hidden, objectives.KL(), tokens, stack, cosines),
            Term(
                "ltr_triple",
                extract.hidden,
                angles,
                reduction.mean_tok,
                stack,
                weight=self.triples,
            ),
        )
