"""MGSKD: match structures of tokens, spans and sequences, predictions after (Liu et al. 2022)."""

from dataclasses import dataclass

from toolchain.distill import extract, matching, objectives, reduction, transforms
from toolchain.distill.term import Method, Term, method

__all__ = ["MGSKD"]


@method("mgskd")
@dataclass(frozen=True, kw_only=True)
class MGSKD(Method):
    """L = 4 sample + token + span in "inter", KL at tau = 1 in "pred"; ACL 2022.

    Layers 0..L/2 match products of pairs in 64 heads (squared error) and angles of triples (Huber)
    of tokens and of spans; the layers above match angles of all triples of sequences. Triples
    stand at the 20 tokens the teacher attends to most, with 20 partners each; its choice serves
    both sides. Difference: spans are runs of three real tokens, not phrases of a parser. The paper
    starts from TinyBERT's general stage.
    """

    heads: int | None = None
    vertices: int = 20
    partners: int = 20
    sample: float = 4.0
    token: float = 1.0
    span: float = 1.0
    tau: float = 1.0

    def terms(self) -> tuple[Term, ...]:
        """Return the structures of the first stage and the predictions of the second."""
        sequences = Term(
            "sample",
            extract.hidden,
            objectives.SampleAngles(),
            reduction.mean_cls,
            match=matching.UniformPart("upper"),
            transforms=(transforms.Pool("mean"),),
            weight=self.sample,
            stage="inter",
        )
        kl = objectives.KL(self.tau)
        split = transforms.SplitHeads(self.heads)
        return (
            self._pairs("token", reduction.mean_pair, (split,), self.token),
            self._triples("token", (split,), self.token),
            self._pairs("span", reduction.mean_span_pair, (transforms.Spans(), split), self.span),
            self._triples("span", (transforms.Spans(), split), self.span),
            sequences,
            Term("soft", extract.logits, kl, reduction.mean_logits),
        )

    def _pairs(
        self,
        of: str,
        over: reduction.Reduction,
        chain: tuple[transforms.Transform, ...],
        weight: float,
    ) -> Term:
        mse, low = objectives.RelationMSE(), matching.UniformPart("lower")
        return Term(f"{of}_pair", extract.hidden, mse, over, low, chain, weight, stage="inter")

    def _triples(self, of: str, chain: tuple[transforms.Transform, ...], weight: float) -> Term:
        angles = objectives.GuidedAngles(self.vertices, self.partners)
        low, mean, read = matching.UniformPart("lower"), reduction.mean_cls, extract.hidden
        return Term(
            f"{of}_triple", read, angles, mean, low, chain, weight, stage="inter",
            guide=extract.attn_probs,
        )  # fmt: skip
