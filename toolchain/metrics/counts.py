"""Metrics of single-label classification: functions of three counts per class.

hits (predicted and true), truth (rows of the class) and predicted (rows predicted as it). So one
bootstrap, over the cells of the confusion matrix, serves all. Shape letters: B rows, C classes,
R resamples.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from toolchain.metrics.outputs import Floats, checked
from toolchain.metrics.resampling import RESAMPLES, SEED, quantiles, ratio
from toolchain.stats import wilson

__all__ = ["ACCURACY", "F1", "MATTHEWS", "CountMetric"]

Ints = NDArray[np.integer]


@dataclass(frozen=True)
class _Counts:
    """Counts per class, each of shape (..., C)."""

    hits: NDArray[np.float64]
    truth: NDArray[np.float64]
    predicted: NDArray[np.float64]


@dataclass(frozen=True)
class CountMetric:
    """A metric of the most likely classes: logits (B, C) against class ids (B,)."""

    of_counts: Callable[[_Counts], NDArray[np.float64]]
    proportion: bool = False

    def value(self, logits: Floats, labels: Ints) -> float:
        """Return the metric."""
        classes = logits.shape[1]
        predictions = _decide(logits)
        hits = labels[predictions == labels]
        tally = [np.bincount(ids, minlength=classes) for ids in (hits, labels, predictions)]
        return float(self.of_counts(_Counts(*(counts.astype(np.float64) for counts in tally))))

    def interval(self, logits: Floats, labels: Ints) -> tuple[float, float]:
        """Return the 95 % interval: Wilson's for a proportion, else a bootstrap over rows."""
        predictions = _decide(logits)
        if self.proportion:
            return wilson(int((predictions == labels).sum()), len(labels))
        return quantiles(self.of_counts(_resampled(predictions, labels, logits.shape[1])))


def _accuracy(counts: _Counts) -> NDArray[np.float64]:
    """Part of the rows predicted right; 0 without rows."""
    return ratio(counts.hits.sum(-1), counts.truth.sum(-1))


def _f1(counts: _Counts) -> NDArray[np.float64]:
    """F1 = 2 hits / (truth + predicted): of class 1 for two classes, else the mean over classes.

    The mean is over the classes that occur in labels or predictions (macro F1). The F1 of a class
    that is neither is 0.
    """
    both = counts.truth + counts.predicted
    per_class = ratio(2 * counts.hits, both)
    if per_class.shape[-1] == 2:
        return per_class[..., 1]
    return ratio(per_class.sum(-1), (both > 0).sum(-1))


def _matthews(counts: _Counts) -> NDArray[np.float64]:
    """Matthews correlation for any number of classes (Gorodkin 2004, R_K).

    (n h - t.p) / sqrt((n^2 - t.t)(n^2 - p.p)) with n rows, h hits, t truth and p predicted per
    class; 0 where all labels or all predictions are of one class.
    """
    rows = counts.truth.sum(-1)
    agreement = rows * counts.hits.sum(-1) - (counts.truth * counts.predicted).sum(-1)
    spread_t = rows**2 - (counts.truth**2).sum(-1)
    spread_p = rows**2 - (counts.predicted**2).sum(-1)
    return ratio(agreement, np.sqrt(spread_t * spread_p))


def _resampled(predictions: Ints, labels: Ints, classes: int) -> _Counts:
    """Return the counts, each (R, C), of R resamples of the rows with replacement.

    Rows with the same label and prediction are alike, so drawing how often each such cell of the
    confusion matrix occurs (a multinomial) is drawing the rows, without touching them.
    """
    cells, frequency = np.unique(labels * classes + predictions, return_counts=True)
    truth, predicted = cells // classes, cells % classes
    drawn = np.random.default_rng(SEED).multinomial(
        len(labels), frequency / len(labels), size=RESAMPLES
    )
    members = np.eye(classes)
    return _Counts(
        hits=drawn @ (members[truth] * (truth == predicted)[:, None]),
        truth=drawn @ members[truth],
        predicted=drawn @ members[predicted],
    )


def _decide(logits: Floats) -> NDArray[np.intp]:
    decided: NDArray[np.intp] = np.argmax(checked(logits), axis=1)
    return decided


ACCURACY = CountMetric(_accuracy, proportion=True)
F1 = CountMetric(_f1)
MATTHEWS = CountMetric(_matthews)
