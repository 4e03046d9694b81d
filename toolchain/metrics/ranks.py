"""Spearman's rank correlation, ties and resampled rows included.

Shape letters: R rows, W resamples, U distinct values.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from toolchain.metrics.outputs import Labels, Outputs
from toolchain.metrics.resampling import bootstrap, ratio
from toolchain.metrics.sums import scores_of

__all__ = ["SPEARMAN", "Spearman"]

Doubles = NDArray[np.float64]


@dataclass(frozen=True)
class Spearman:
    """Pearson's r of the ranks; equal values share the mean of their ranks."""

    def value(self, outputs: Outputs, labels: Labels | None) -> float:
        """Return the correlation; 0 where either side does not vary."""
        x, y = scores_of(outputs, labels)
        return float(_correlation(x, y, np.ones((1, len(x))))[0]) if len(x) else 0.0

    def interval(self, outputs: Outputs, labels: Labels | None) -> tuple[float, float]:
        """Return the percentile bootstrap's 95 % interval over rows, ranked anew each time."""
        x, y = scores_of(outputs, labels)
        return bootstrap(len(x), lambda weights: _correlation(x, y, weights))


def _correlation(x: Doubles, y: Doubles, weights_WR: Doubles) -> Doubles:
    rank_x, rank_y = _ranks(x, weights_WR), _ranks(y, weights_WR)
    total = weights_WR.sum(1, keepdims=True)
    rank_x -= (weights_WR * rank_x).sum(1, keepdims=True) / total
    rank_y -= (weights_WR * rank_y).sum(1, keepdims=True) / total
    covariance = (weights_WR * rank_x * rank_y).sum(1)
    spread = (weights_WR * rank_x**2).sum(1) * (weights_WR * rank_y**2).sum(1)
    return ratio(covariance, np.sqrt(spread))


def _ranks(values_R: Doubles, weights_WR: Doubles) -> Doubles:
    """Return mean ranks (W, R) of values that occur as often as their weight says."""
    _, place = np.unique(values_R, return_inverse=True)
    order = np.argsort(place, kind="stable")
    starts = np.flatnonzero(np.diff(place[order], prepend=-1))
    weight_WU = np.add.reduceat(weights_WR[:, order], starts, axis=1)
    ranks_WU = np.cumsum(weight_WU, axis=1) - (weight_WU - 1) / 2
    return np.asarray(ranks_WU[:, place])


SPEARMAN = Spearman()
