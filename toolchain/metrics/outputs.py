"""What a model answered to many rows, in the form that metrics read: never (R, N, V) logits.

Sentence tasks give an array of logits (R, C), embeddings stand in `Embeddings`. Tagging gives
`TagLogits`, the logits of labelled words alone, questions `Replies`; language models give
`TokenSums`, which are summed up while the rows stream by.

Shape letters: R rows, C classes, P labelled words of all rows.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from toolchain.errors import StepError

__all__ = [
    "Embeddings",
    "Floats",
    "Labels",
    "Outputs",
    "Replies",
    "TagLogits",
    "TokenSums",
    "checked",
    "is_finite",
]

Floats = NDArray[np.floating]
Labels = NDArray[np.integer] | NDArray[np.floating]


@dataclass(frozen=True, kw_only=True)
class TagLogits:
    """Logits (P, C) of the labelled words; row i has the words starts[i] to starts[i + 1].

    `names` are the tags by id. Gold ids of C or more stand for tags that the model does not know:
    no prediction equals them.
    """

    logits: NDArray[np.float32]
    starts: NDArray[np.int64]
    names: tuple[str, ...]

    def __len__(self) -> int:
        """Return the number of rows."""
        return len(self.starts) - 1


@dataclass(frozen=True, kw_only=True)
class TokenSums:
    """Per row, over its supervised tokens: summed -log p, how many were right, how many there are.

    Each (R,). `nll` is in nats.
    """

    nll: NDArray[np.float64]
    right: NDArray[np.int64]
    tokens: NDArray[np.int64]

    def __len__(self) -> int:
        """Return the number of rows."""
        return len(self.tokens)


@dataclass(frozen=True, kw_only=True)
class Embeddings:
    """One vector per text, (R, D). Of scored pairs the first texts stand before the second ones."""

    vectors: NDArray[np.float32]

    def __len__(self) -> int:
        """Return the number of texts."""
        return len(self.vectors)


@dataclass(frozen=True, kw_only=True)
class Replies:
    """The answer to each of R questions, "" for none, and every right one; none where none is.

    `finite` says whether all figures they were chosen by are numbers.
    """

    texts: tuple[str, ...]
    answers: tuple[tuple[str, ...], ...]
    finite: bool = True

    def __len__(self) -> int:
        """Return the number of questions."""
        return len(self.texts)


Outputs = Floats | TagLogits | TokenSums | Embeddings | Replies


def is_finite(outputs: Outputs) -> bool:
    """Return whether outputs decide anything at all."""
    if isinstance(outputs, TagLogits):
        return bool(np.isfinite(outputs.logits).all())
    if isinstance(outputs, TokenSums):
        return bool(np.isfinite(outputs.nll).all())
    if isinstance(outputs, Replies):
        return outputs.finite
    if isinstance(outputs, Embeddings):
        return bool(np.isfinite(outputs.vectors).all())
    return bool(np.isfinite(outputs).all())


def checked(logits: Floats) -> Floats:
    """Return the logits. Raises StepError for logits that are not finite: they decide nothing."""
    if not np.isfinite(logits).all():
        raise StepError("the model's logits are not all finite, so they decide nothing")
    return logits
