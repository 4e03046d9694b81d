"""Embeddings judged by how alike they make two texts.

Where the data say how alike, their scores are the measure. Where they do not, another model's
embeddings of the same texts are: of many pairs of texts, both models give a cosine, whatever the
widths. A space is compared by what is near what in it (Kriegeskorte et al. 2008, representational
similarity analysis).

Shape letters: R texts, D width, P pairs.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from toolchain.metrics.outputs import Embeddings, Labels, checked
from toolchain.metrics.resampling import bootstrap

__all__ = ["COSINE", "Agreement", "cosines_and_scores"]

Doubles = NDArray[np.float64]

# Each text stands beside so many that follow it, round about.
_NEIGHBOURS = 4


def cosines_and_scores(outputs: Embeddings, labels: Labels) -> tuple[Doubles, Doubles]:
    """Return the cosine of each pair of texts and what it is measured by, (P,) both.

    `labels` are the scores of R / 2 pairs, text i with text R / 2 + i, or another model's
    embeddings (R, D) of the same texts, whose cosines are then the scores.
    """
    vectors_RD = _unit(checked(outputs.vectors))
    if labels.ndim == 1:
        first_PD, second_PD = np.split(vectors_RD, 2)
        return np.asarray((first_PD * second_PD).sum(1)), labels.astype(np.float64)
    theirs_RD = _unit(labels)
    steps = range(1, min(_NEIGHBOURS, len(vectors_RD) - 1) + 1)
    ours, theirs = (
        [(v * np.roll(v, -step, axis=0)).sum(1) for step in steps] for v in (vectors_RD, theirs_RD)
    )
    return np.concatenate([*ours, np.zeros(0)]), np.concatenate([*theirs, np.zeros(0)])


@dataclass(frozen=True)
class Agreement:
    """Mean cosine of each text's embedding with another model's of the same width."""

    def value(self, outputs: Embeddings, labels: Labels) -> float:
        """Return the mean."""
        return float(_agreement(outputs, labels).mean())

    def interval(self, outputs: Embeddings, labels: Labels) -> tuple[float, float]:
        """Return the percentile bootstrap's 95 % interval over texts."""
        found_R = _agreement(outputs, labels)
        return bootstrap(len(found_R), lambda weights: weights @ found_R / len(found_R))


def _agreement(outputs: Embeddings, labels: Labels) -> Doubles:
    return np.asarray((_unit(checked(outputs.vectors)) * _unit(labels)).sum(1))


def _unit(vectors_RD: Labels) -> Doubles:
    wide = vectors_RD.astype(np.float64)
    lengths = np.linalg.norm(wide, axis=1, keepdims=True)
    return np.asarray(np.divide(wide, lengths, out=np.zeros_like(wide), where=lengths > 0))


COSINE = Agreement()
