"""Which tensor of a model is read: the knowledge axis.

Names follow methods.md section 1. Attention scores are recomputed from hooked queries and keys,
so the forward pass keeps its fused attention kernel (SDPA returns no attention maps).
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

from toolchain.distill.shapes import Shape, Unfit
from toolchain.models.family import families
from toolchain.spec import SEQUENCE, ModelSpec

__all__ = [
    "KNOWLEDGE",
    "Extract",
    "Kind",
    "Request",
    "attn_probs",
    "attn_scores",
    "emb",
    "gold",
    "head",
    "hidden",
    "k",
    "labels",
    "logits",
    "pooled",
    "q",
    "spares_last_block",
    "states",
    "v",
]

Kind = Literal[
    "logits",
    "labels",
    "head",
    "gold",
    "states",
    "pooled",
    "emb",
    "hidden",
    "attn_scores",
    "attn_probs",
    "q",
    "k",
    "v",
]


@dataclass(frozen=True)
class Request:
    """One tensor a hook must keep: a kind, and the layer it belongs to (0 for the whole model).

    For a "head" it is the number of the head: 0 is that of gold labels, k that of teacher k.
    """

    kind: Literal["logits", "head", "states", "pooled", "emb", "hidden", "q", "k", "v"]
    layer: int = 0


def spares_last_block(spec: ModelSpec, requests: Iterable[Request]) -> bool:
    """Return whether a pass need not compute all of the last block.

    A classifier's head reads its first token; what else would must be asked for.
    """
    # Heads have numbers, not layers.
    read = any(r.layer == spec.layers and r.kind != "head" for r in requests)
    return not read and families.get(spec.family).reads_first_token(spec.task)


@dataclass(frozen=True)
class Extract:
    """One kind of knowledge; `layered` kinds exist once per block."""

    kind: Kind
    layered: bool = False

    @property
    def is_gold(self) -> bool:
        """Whether gold labels stand on the teacher's side."""
        return self.kind in ("labels", "gold")

    def shape(self, spec: ModelSpec) -> Shape:
        """Return the shape this knowledge has in a model of that spec. Raises Unfit."""
        match self.kind:
            case "logits" | "labels" | "head" | "gold":
                if spec.task == "embed":
                    raise Unfit(
                        "a model of embeddings tells no outcomes apart",
                        "read pooled: methods embeddings and similarities do",
                    )
                return Shape(
                    positions="logits",
                    features=_outcomes(spec),
                    answers=_answers(spec),
                    independent=spec.task == "multi_label",
                )
            case "states":
                if spec.task not in ("causal_lm", "classify", "tag"):
                    raise Unfit(
                        f"the head of a model for {spec.task} does not read one state per answer",
                        "read hidden states instead",
                    )
                return Shape(
                    positions="logits",
                    features=spec.width,
                    answers=_answers(spec),
                    head=(spec.width, _outcomes(spec) or 0),
                )
            case "attn_scores" | "attn_probs":
                return Shape(positions="pair", heads=spec.heads)
            case "pooled":
                if spec.task not in SEQUENCE | {"embed"}:
                    raise Unfit(
                        f"a model for {spec.task} pools nothing", "read hidden states instead"
                    )
                return Shape(positions="cls", features=spec.width)
            case "k" | "v":
                return Shape(positions="tok", features=spec.key_width, heads=spec.kv_heads)
            case "q":
                width = spec.heads * spec.head_width
                return Shape(positions="tok", features=width, heads=spec.heads)
            case "emb" | "hidden":
                return Shape(
                    positions="tok",
                    features=spec.width,
                    heads=spec.heads,
                    answers=_answers(spec),
                    independent=spec.task == "multi_label",
                )

    def requests(self, layer: int) -> tuple[Request, ...]:
        """Return the tensors to keep so that this knowledge of `layer` can be given."""
        match self.kind:
            case "labels" | "head":
                return (Request("logits"),)
            case "gold":
                return (Request("head"),)
            case "attn_scores" | "attn_probs":
                return (Request("q", layer), Request("k", layer))
            case "logits" | "states" | "pooled" | "emb":
                return (Request(self.kind),)
            case "hidden" if layer == 0:
                return (Request("emb"),)
            case "hidden" | "q" | "k" | "v":
                return (Request(self.kind, layer),)


def _outcomes(spec: ModelSpec) -> int | None:
    match spec.task:
        case "mask_lm" | "causal_lm":
            return spec.vocab
        case "multi_label":
            # Every class is a yes or no of its own.
            return 2
        case "regress":
            return 1
        case "qa":
            # The tokens, as many as a row has.
            return None
        case _:
            return spec.num_labels


def _answers(spec: ModelSpec) -> int | None:
    if spec.task not in SEQUENCE:
        return None
    return 1 if spec.task == "regress" else spec.num_labels


logits = Extract("logits")
"""Logits z of every supervised position, (P, C); a multi-label class is a row (0, z).

A question has two rows over the tokens, (2 B, N): where its answer begins, where it ends.
"""
labels = Extract("labels")
"""The gold labels stand on the teacher's side, the student's logits on its own."""
head = Extract("head")
"""Logits of the student's extra head for this teacher, against the teacher's own, (P, C)."""
gold = Extract("gold")
"""The gold labels on the teacher's side, the logits of the student's extra head for them."""
states = Extract("states")
"""What the last linear layer of the head reads at every supervised position, (P, D)."""
pooled = Extract("pooled")
"""What the last linear layer of the head reads, or the embedding of a text, (B, D)."""
emb = Extract("emb")
"""Embedding output H_0 as the first block reads it, (B, N, D)."""
hidden = Extract("hidden", layered=True)
"""Block output H_l, (B, N, D); layer 0 is the embedding output."""
attn_scores = Extract("attn_scores", layered=True)
"""Attention scores before the softmax A_l = Q K^T / sqrt(K), (B, H, N, N)."""
attn_probs = Extract("attn_probs", layered=True)
"""Attention probabilities softmax(A_l), (B, H, N, N). Divergences take the scores instead."""
q = Extract("q", layered=True)
"""Projected queries before the head split, (B, N, D)."""
k = Extract("k", layered=True)
"""Projected keys before the head split, (B, N, D), narrower with grouped queries."""
v = Extract("v", layered=True)
"""Projected values before the head split, (B, N, D), narrower with grouped queries."""

KNOWLEDGE = {
    extract.kind: extract
    for extract in (logits, labels, states, pooled, emb, hidden, attn_scores, attn_probs, q, k, v)
}
"""Every kind of knowledge by the name recipes use; extra heads exist only under a surgery."""
