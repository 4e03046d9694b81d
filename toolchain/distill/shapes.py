"""Shape: what is known of a tensor from two model specs alone.

Terms are checked by carrying shapes through their transforms before any weight is loaded, so
what a method requires follows from what it does and cannot drift from it.
"""

from dataclasses import dataclass
from typing import Literal, NamedTuple

__all__ = ["SPAN", "Footprint", "Positions", "Shape", "Unfit"]

SPAN = 3
"""Real tokens per span."""

Positions = Literal["logits", "cls", "tok", "pair", "sample", "span", "span_pair"]


class Footprint(NamedTuple):
    """Bytes one part of a term holds until the backward pass, and more while it is computed."""

    held: int
    spare: int = 0


class Unfit(Exception):
    """Two shapes do not go together; `way_out` says what would."""

    def __init__(self, problem: str, way_out: str) -> None:
        super().__init__(problem)
        self.problem = problem
        self.way_out = way_out


@dataclass(frozen=True, kw_only=True)
class Shape:
    """One side's tensor.

    `positions`: "logits" is one vector of logits per supervised position (P, F), "cls" one vector
    per sequence (B, F), "tok" one per token (B, N, F), "pair" one map per head over pairs of tokens
    (B, H, N, N), "sample" one value per pair of sequences (B, B); "span" and "span_pair" are "tok"
    and "pair" over spans of tokens. `features` is the size of the last axis (None for keys and
    sequences, and for logits whose outcomes are a row's tokens), `heads` the number of maps or of
    attention heads the features divide into, `layers` how many layers are stacked before the
    features (B, N, L, F), `split` into how many heads each vector was divided (B, N, R, F) or (B,
    R, F). `answers` is how many outputs the task has per sequence (None: it answers per token),
    `independent` says that each is a yes or no of its own. `head` is what the model's last linear
    layer reads and gives: features, outcomes.
    """

    positions: Positions
    features: int | None = None
    heads: int | None = None
    layers: int | None = None
    split: int | None = None
    answers: int | None = None
    independent: bool = False
    head: tuple[int, int] | None = None

    @property
    def per_token(self) -> bool:
        """Whether its vectors stand at tokens of one tokenizer, or between them."""
        if self.positions == "logits":
            return self.answers is None
        return self.positions in ("tok", "pair", "span", "span_pair")

    def elements(self, batch: int, tokens: int) -> int:
        """Return how many numbers one layer's tensor holds, every token being supervised."""
        features = (self.features or 1) * (self.layers or 1) * (self.split or 1)
        spans = -(-tokens // SPAN)
        match self.positions:
            case "logits" if self.features is None:
                # Where an answer begins, and where it ends.
                return batch * 2 * tokens
            case "logits":
                rows = tokens if self.answers is None else self.answers if self.independent else 1
                return batch * rows * features
            case "cls":
                return batch * features
            case "tok":
                return batch * tokens * features
            case "span":
                return batch * spans * features
            case "pair":
                return batch * (self.heads or 1) * tokens**2
            case "span_pair":
                return batch * (self.heads or 1) * spans**2
            case "sample":
                return batch**2
