"""Shape: what is known of a tensor from two model specs alone.

Terms are checked by carrying shapes through their transforms before any weight is loaded, so
what a method requires follows from what it does and cannot drift from it.
"""

from dataclasses import dataclass
from typing import Literal

__all__ = ["Positions", "Shape", "Unfit"]

Positions = Literal["cls", "tok", "pair"]


class Unfit(Exception):
    """Two shapes do not go together; `way_out` says what would."""

    def __init__(self, problem: str, way_out: str) -> None:
        super().__init__(problem)
        self.problem = problem
        self.way_out = way_out


@dataclass(frozen=True, kw_only=True)
class Shape:
    """One side's tensor.

    `positions`: "cls" is one vector per sequence (B, F), "tok" one per token (B, N, F), "pair" one
    map per head over pairs of tokens (B, H, N, N). `features` is the size of the last axis (None
    for keys), `heads` the number of maps or of attention heads the features divide into.
    """

    positions: Positions
    features: int | None = None
    heads: int | None = None
