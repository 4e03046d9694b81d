"""ModelSpec: the shape of a transformer and the arithmetic that follows from it.

Everything here is computed from a config file; no weight is read.
"""

from dataclasses import dataclass, replace
from typing import Literal

__all__ = ["LABELLED", "LANGUAGE", "SEQUENCE", "TOKENS", "ModelSpec", "Parts", "Precision", "Task"]

Task = Literal[
    "classify", "multi_label", "regress", "tag", "qa", "mask_lm", "causal_lm", "embed", "encode"
]
Precision = Literal["fp32", "bf16", "int8"]

SEQUENCE: frozenset[Task] = frozenset({"classify", "multi_label", "regress"})
"""Tasks with one answer per sequence; they share one head."""
LABELLED: frozenset[Task] = SEQUENCE | {"tag", "qa"}
"""Tasks whose data carry labels."""
LANGUAGE: frozenset[Task] = frozenset({"mask_lm", "causal_lm"})
"""Tasks whose outcomes are the vocabulary."""
TOKENS: frozenset[Task] = LANGUAGE | {"tag", "qa"}
"""Tasks with figures for every token: an answer each, or how well one begins and ends there."""

_BYTES: dict[str, int] = {"fp32": 4, "bf16": 2, "int8": 1}


@dataclass(frozen=True, kw_only=True)
class Parts:
    """What a family's blocks and ends are made of, beyond their sizes. The defaults are BERT's."""

    qkv_bias: bool = True
    out_bias: bool = True
    ffn_bias: bool = True
    # Gated: a third matrix beside the two of a feed-forward (SwiGLU).
    ffn_gated: bool = False
    # Without bias: root mean square norms.
    norm_bias: bool = True
    # Thin blocks (MobileBERT): heads are as wide as a bottleneck inside, `ffn_stack` feed-forwards
    # follow each other in it, and embeddings of three neighbours are joined before the first.
    bottleneck: bool = False
    ffn_stack: int = 1
    # A norm over each head's queries and one over its keys.
    head_norms: bool = False
    # Heads whose width is a setting of its own, not width / heads.
    free_heads: bool = False
    embedding_norm: bool = True
    # The norm comes after the projection of narrow embeddings, which then has no bias.
    embedding_norm_last: bool = False
    final_norm: bool = False
    learned_positions: bool = True
    # Rows of the position table that no token ever uses.
    position_offset: int = 0
    # Rows of a table of relative positions shared by all blocks, and whether it has a norm.
    relative_rows: int = 0
    relative_norm: bool = False
    # Projections of that table in every block.
    relative_projections: int = 0
    # Buckets of a bias that distance adds to attention scores, one value per head.
    bias_buckets: int = 0
    # A dense layer before the classifier (BERT's pooler), and whether the classifier has a bias.
    head_dense: bool = True
    head_bias: bool = True
    # The bare model ends in a pooler.
    pooler: bool = True
    # The language head shares its matrix with the token embeddings.
    tied: bool = True
    # What training keeps for the backward pass: whether features and attention are dropped, how
    # many tensors as wide as the feed-forward stay, and whether one fused kernel does attention.
    dropout: bool = True
    attention_dropout: bool = True
    ffn_kept: int = 2
    fused_attention: bool = True


@dataclass(frozen=True, kw_only=True)
class ModelSpec:
    """Shape of one model. Widths are in features, `max_tokens` in positions.

    Left at 0, `kv_heads` becomes `heads` (fewer means grouped queries), `head_width` becomes
    width / heads and `embedding_width` becomes `width`. `tokenizer` names what cuts its texts:
    models with the same name read the same tokens.
    """

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
    kv_heads: int = 0
    head_width: int = 0
    embedding_width: int = 0
    causal: bool = False
    rotary: bool = False
    tokenizer: str = ""
    parts: Parts = Parts()

    def __post_init__(self) -> None:
        """Replace zeros by what they stand for."""
        for name, value in (
            ("kv_heads", self.heads),
            ("head_width", self.width // self.heads if self.heads else 0),
            ("embedding_width", self.width),
        ):
            if not getattr(self, name):
                object.__setattr__(self, name, value)

    def problem(self) -> str | None:
        """Return why no such model can be built, or None."""
        for name in ("layers", "width", "heads", "ffn", "vocab", "max_tokens"):
            if getattr(self, name) < 1:
                return f"{name} must be at least 1, found {getattr(self, name)}"
        if self.heads * self.head_width != self.width and not self.parts.free_heads:
            return (
                f"{self.heads} heads do not divide a width of {self.width}; "
                f"heads that do: {', '.join(map(str, self._divisors()))}"
            )
        if self.heads % self.kv_heads:
            return f"{self.kv_heads} key-value heads do not divide {self.heads} heads"
        if self.rotary and self.head_width % 2:
            return f"rotary positions turn pairs of features, but heads are {self.head_width} wide"
        return None

    def _divisors(self) -> list[int]:
        return [h for h in range(1, self.width + 1) if self.width % h == 0 and self.width // h >= 8]

    @property
    def query_width(self) -> int:
        """Features of the projected queries."""
        return self.heads * self.head_width

    @property
    def key_width(self) -> int:
        """Features of the projected keys, and of the values."""
        return self.kv_heads * self.head_width

    def _norm(self, width: int) -> int:
        return 2 * width if self.parts.norm_bias else width

    def embedding_params(self) -> int:
        """Parameters of the token, position and type embeddings, their norm and projection."""
        d, e, parts = self.width, self.embedding_width, self.parts
        positions = self.max_tokens + parts.position_offset if parts.learned_positions else 0
        tables = (self.vocab + positions + self.token_types) * e
        bias = 0 if parts.embedding_norm_last else d
        projection = 0 if e == d else e * d + bias
        if parts.bottleneck:
            tables = self.vocab * e + (positions + self.token_types) * d
            projection = 3 * e * d + d
        last = parts.embedding_norm_last or parts.bottleneck
        norm = self._norm(d if last else e) if parts.embedding_norm else 0
        return tables + projection + norm

    def block_params(self) -> int:
        """Parameters of one block: projections, feed-forward, norms, biases."""
        if self.parts.bottleneck:
            return self._thin_block_params()
        d, f, q, k, parts = self.width, self.ffn, self.query_width, self.key_width, self.parts
        projections = d * q + 2 * d * k + (q + 2 * k if parts.qkv_bias else 0)
        projections += parts.relative_projections * (d * q + q)
        out = q * d + (d if parts.out_bias else 0)
        inner = 2 if parts.ffn_gated else 1
        ffn = (inner + 1) * d * f + (inner * f + d if parts.ffn_bias else 0)
        head_norms = 2 * self.head_width if parts.head_norms else 0
        return projections + out + ffn + 2 * self._norm(d) + head_norms

    def _thin_block_params(self) -> int:
        d, b, f = self.width, self.query_width, self.ffn
        # Into the bottleneck for queries and keys and for the sum; values read the whole width.
        inputs = 2 * (d * b + b + self._norm(b))
        attention = 2 * (b * b + b) + d * b + b + b * b + b + self._norm(b)
        ffn = b * f + f + f * b + b + self._norm(b)
        output = b * d + d + self._norm(d)
        return inputs + attention + self.parts.ffn_stack * ffn + output

    def shared_params(self) -> int:
        """Parameters all blocks share: tables of relative positions, the norm after the last."""
        d, parts = self.width, self.parts
        relative = parts.relative_rows * d + (self._norm(d) if parts.relative_norm else 0)
        bias = parts.bias_buckets * self.heads
        return relative + bias + (self._norm(d) if parts.final_norm else 0)

    def head_params(self) -> int:
        """Parameters of the task's head, a pooler included."""
        d, e, parts = self.width, self.embedding_width, self.parts
        dense = d * d + d
        match self.task:
            case "classify" | "multi_label" | "regress":
                bias = self.num_labels if parts.head_bias else 0
                return (dense if parts.head_dense else 0) + d * self.num_labels + bias
            case "tag":
                return d * self.num_labels + self.num_labels
            case "qa":
                # How well an answer begins at a token, and how well one ends there.
                return 2 * d + 2
            case "mask_lm":
                matrix = 0 if parts.tied else self.vocab * e
                if parts.bottleneck:
                    return dense + self._norm(d) + self.vocab * (d - e + 1) + matrix
                return d * e + e + self._norm(e) + self.vocab + matrix
            case "causal_lm":
                return 0 if parts.tied else self.vocab * d
            case "embed":
                # States are pooled without parameters.
                return 0
            case "encode":
                return dense if parts.pooler else 0

    def params(self) -> int:
        """Parameters of the whole model with its task's head, shared ones counted once."""
        blocks = self.layers * self.block_params()
        return self.embedding_params() + blocks + self.shared_params() + self.head_params()

    def bytes(self, precision: Precision = "fp32") -> int:
        """Bytes of the weights alone at one precision."""
        return self.params() * _BYTES[precision]

    def macs(self, tokens: int) -> int:
        """Multiply-accumulates of the blocks for one sequence of `tokens` tokens.

        Every pair of tokens is counted, as kernels compute them; terms of relative positions and
        the head are left out.
        """
        d, f, q, k = self.width, self.ffn, self.query_width, self.key_width
        matrices = 2 * d * q + 2 * d * k + (3 if self.parts.ffn_gated else 2) * d * f
        if self.parts.bottleneck:
            matrices = 4 * d * q + 3 * q * q + 2 * self.parts.ffn_stack * q * f
        return self.layers * (matrices * tokens + 2 * tokens * tokens * q)

    @property
    def sizes(self) -> dict[str, int]:
        """What pruning may change, by name."""
        names = ("layers", "width", "heads", "ffn", "kv_heads", "head_width", "embedding_width")
        return {name: int(getattr(self, name)) for name in names}

    def same_blocks(self, other: "ModelSpec") -> bool:
        """Whether blocks of one model fit into the other, weight by weight."""
        mine, theirs = (
            (s.family, s.width, s.ffn, s.heads, s.kv_heads, s.head_width, s.embedding_width)
            for s in (self, other)
        )
        return mine == theirs

    def reshaped(
        self,
        *,
        layers: int | None = None,
        width: int | None = None,
        heads: int | None = None,
        ffn: int | None = None,
    ) -> "ModelSpec":
        """Return this spec with another shape.

        The ratios ffn / width and heads / kv_heads are kept. Heads keep their number when it
        divides the new width (terms that match attention need equal numbers), else their width;
        heads whose width is a setting of its own keep both. Embeddings as wide as the model stay
        so, narrow ones keep their width.
        """
        new_width = width or self.width
        free = self.parts.free_heads and self.head_width * self.heads != self.width
        if heads is None:
            heads = self.heads if free or self._fits(new_width) else self._heads_of(new_width)
        if ffn is None:
            ffn = self.ffn * new_width // self.width
        return replace(
            self,
            layers=layers or self.layers,
            width=new_width,
            heads=heads,
            ffn=ffn,
            kv_heads=_grouped(heads, self.heads // self.kv_heads),
            head_width=self.head_width if free else 0,
            embedding_width=0 if self.embedding_width == self.width else self.embedding_width,
        )

    def _fits(self, width: int) -> bool:
        return width % self.heads == 0 and not (self.rotary and width // self.heads % 2)

    def _heads_of(self, width: int) -> int:
        return max(1, width // self.head_width)

    def __str__(self) -> str:
        """Shape at a glance, as `3 x 384 (12 heads, ffn 1536)`."""
        grouped = f" on {self.kv_heads}" if self.kv_heads != self.heads else ""
        free = f" of {self.head_width}" if self.query_width != self.width else ""
        return f"{self.layers} x {self.width} ({self.heads} heads{grouped}{free}, ffn {self.ffn})"


def _grouped(heads: int, group: int) -> int:
    """Return the most key-value heads that divide `heads` into groups of at least `group`."""
    return next(n for n in range(max(1, heads // group), 0, -1) if heads % n == 0)
