"""ModelSpec: the shape of a transformer and the arithmetic that follows from it.

Everything here is computed from a config file; no weight is read.
"""

from dataclasses import dataclass, replace
from typing import Literal

__all__ = ["ModelSpec", "Precision", "Task"]

Task = Literal["classify", "encode"]
Precision = Literal["fp32", "bf16", "int8"]

_BYTES: dict[str, int] = {"fp32": 4, "bf16": 2, "int8": 1}


@dataclass(frozen=True, kw_only=True)
class ModelSpec:
    """Shape of one encoder. Widths are in features, `max_tokens` in positions."""

    family: str
    layers: int
    width: int
    heads: int
    ffn: int
    vocab: int
    max_tokens: int
    token_types: int = 2
    task: Task = "classify"
    num_labels: int = 0

    def problem(self) -> str | None:
        """Return why no such model can be built, or None."""
        for name in ("layers", "width", "heads", "ffn", "vocab", "max_tokens"):
            if getattr(self, name) < 1:
                return f"{name} must be at least 1, found {getattr(self, name)}"
        if self.width % self.heads:
            return (
                f"{self.heads} heads do not divide a width of {self.width}; "
                f"heads that do: {', '.join(map(str, self._divisors()))}"
            )
        return None

    def _divisors(self) -> list[int]:
        return [h for h in range(1, self.width + 1) if self.width % h == 0 and self.width // h >= 8]

    @property
    def head_width(self) -> int:
        """Features per attention head."""
        return self.width // self.heads

    def embedding_params(self) -> int:
        """Parameters of the token, position and type embeddings and their norm."""
        return (self.vocab + self.max_tokens + self.token_types + 2) * self.width

    def block_params(self) -> int:
        """Parameters of one block: four projections, the feed-forward, two norms, biases."""
        d, f = self.width, self.ffn
        return 4 * (d * d + d) + (2 * d * f + f + d) + 4 * d

    def params(self) -> int:
        """Parameters of the whole model with its pooler and, if any, its classifier."""
        d = self.width
        head = d * self.num_labels + self.num_labels if self.task == "classify" else 0
        return self.embedding_params() + self.layers * self.block_params() + d * d + d + head

    def bytes(self, precision: Precision = "fp32") -> int:
        """Bytes of the weights alone at one precision."""
        return self.params() * _BYTES[precision]

    def macs(self, tokens: int) -> int:
        """Multiply-accumulates of the blocks for one sequence of `tokens` tokens."""
        d, f = self.width, self.ffn
        return self.layers * ((4 * d * d + 2 * d * f) * tokens + 2 * tokens * tokens * d)

    def reshaped(
        self,
        *,
        layers: int | None = None,
        width: int | None = None,
        heads: int | None = None,
        ffn: int | None = None,
    ) -> "ModelSpec":
        """Return this spec with another shape.

        The ratio ffn / width is kept where `ffn` is not given. Heads keep their number when it
        divides the new width (terms that match attention need equal numbers), else their width.
        """
        new_width = width or self.width
        if heads is None:
            same = new_width % self.heads == 0
            heads = self.heads if same else max(1, new_width // self.head_width)
        if ffn is None:
            ffn = self.ffn * new_width // self.width
        return replace(self, layers=layers or self.layers, width=new_width, heads=heads, ffn=ffn)

    def __str__(self) -> str:
        """Shape at a glance, as `3 x 384 (12 heads, ffn 1536)`."""
        return f"{self.layers} x {self.width} ({self.heads} heads, ffn {self.ffn})"
