"""Which tensor of a model is read: the knowledge axis.

Names follow methods.md section 1. Attention scores are recomputed from hooked queries and keys,
so the forward pass keeps its fused attention kernel (SDPA returns no attention maps).
"""

from dataclasses import dataclass
from typing import Literal

from toolchain.distill.shapes import Shape
from toolchain.spec import ModelSpec

__all__ = [
    "Extract",
    "Kind",
    "Request",
    "attn_scores",
    "emb",
    "hidden",
    "k",
    "labels",
    "logits",
    "q",
    "v",
]

Kind = Literal["logits", "labels", "emb", "hidden", "attn_scores", "q", "k", "v"]


@dataclass(frozen=True)
class Request:
    """One tensor a hook must keep: a kind, and the layer it belongs to (0 for the whole model)."""

    kind: Literal["logits", "emb", "hidden", "q", "k", "v"]
    layer: int = 0


@dataclass(frozen=True)
class Extract:
    """One kind of knowledge; `layered` kinds exist once per block."""

    kind: Kind
    layered: bool = False

    def shape(self, spec: ModelSpec) -> Shape:
        """Return the shape this knowledge has in a model of that spec."""
        match self.kind:
            case "logits" | "labels":
                return Shape(positions="cls", features=spec.num_labels)
            case "attn_scores":
                return Shape(positions="pair", heads=spec.heads)
            case "emb" | "hidden" | "q" | "k" | "v":
                return Shape(positions="tok", features=spec.width, heads=spec.heads)

    def requests(self, layer: int) -> tuple[Request, ...]:
        """Return the tensors to keep so that this knowledge of `layer` can be given."""
        match self.kind:
            case "labels":
                return (Request("logits"),)
            case "attn_scores":
                return (Request("q", layer), Request("k", layer))
            case "logits" | "emb":
                return (Request(self.kind),)
            case "hidden" | "q" | "k" | "v":
                return (Request(self.kind, layer),)


logits = Extract("logits")
"""Class logits z, (B, C)."""
labels = Extract("labels")
"""The gold labels stand on the teacher's side, the student's logits on its own."""
emb = Extract("emb")
"""Embedding output H_0 after its norm, (B, N, D)."""
hidden = Extract("hidden", layered=True)
"""Block output H_l, (B, N, D)."""
attn_scores = Extract("attn_scores", layered=True)
"""Attention scores before the softmax A_l = Q K^T / sqrt(K), (B, H, N, N)."""
q = Extract("q", layered=True)
"""Projected queries before the head split, (B, N, D)."""
k = Extract("k", layered=True)
"""Projected keys before the head split, (B, N, D)."""
v = Extract("v", layered=True)
"""Projected values before the head split, (B, N, D)."""
