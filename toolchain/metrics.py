"""How well predictions agree with labels: the task metrics and their 95 % intervals.

Every metric here is a function of three counts per class, so that one bootstrap serves all:
hits (predicted and true), truth (rows of the class) and predicted (rows predicted as it). Shape
letters: B rows, C classes, R resamples.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType

import numpy as np
from numpy.typing import NDArray

from toolchain.errors import StepError
from toolchain.stats import wilson

__all__ = ["METRICS", "Metric", "all_scores", "interval", "score"]

Ints = NDArray[np.integer]
Floats = NDArray[np.floating]

_RESAMPLES = 1000
_SEED = 0


@dataclass(frozen=True)
class _Counts:
    """Counts per class, each of shape (..., C)."""

    hits: NDArray[np.float64]
    truth: NDArray[np.float64]
    predicted: NDArray[np.float64]


@dataclass(frozen=True)
class Metric:
    """A metric over (predictions (B,), labels (B,)); `name` is what a recipe calls it."""

    name: str
    of_counts: Callable[[_Counts], NDArray[np.float64]]

    def __call__(self, predictions: Ints, labels: Ints, *, classes: int | None = None) -> float:
        """Return the metric; `classes` is their number where the data may lack the last ones."""
        width = classes or int(max(predictions.max(initial=1), labels.max(initial=1))) + 1
        hits = labels[predictions == labels]
        tally = [np.bincount(ids, minlength=width) for ids in (hits, labels, predictions)]
        return float(self.of_counts(_Counts(*(counts.astype(np.float64) for counts in tally))))


def _accuracy(counts: _Counts) -> NDArray[np.float64]:
    """Part of the rows predicted right; 0 without rows."""
    return _ratio(counts.hits.sum(-1), counts.truth.sum(-1))


def _f1(counts: _Counts) -> NDArray[np.float64]:
    """F1 = 2 hits / (truth + predicted): of class 1 for two classes, else the mean over classes.

    The mean is over the classes that occur in labels or predictions (macro F1). The F1 of a class
    that is neither is 0.
    """
    both = counts.truth + counts.predicted
    per_class = _ratio(2 * counts.hits, both)
    if per_class.shape[-1] == 2:
        return per_class[..., 1]
    return _ratio(per_class.sum(-1), (both > 0).sum(-1))


def _matthews(counts: _Counts) -> NDArray[np.float64]:
    """Matthews correlation for any number of classes (Gorodkin 2004, R_K).

    (n h - t.p) / sqrt((n^2 - t.t)(n^2 - p.p)) with n rows, h hits, t truth and p predicted per
    class; 0 where all labels or all predictions are of one class.
    """
    rows = counts.truth.sum(-1)
    agreement = rows * counts.hits.sum(-1) - (counts.truth * counts.predicted).sum(-1)
    spread_t = rows**2 - (counts.truth**2).sum(-1)
    spread_p = rows**2 - (counts.predicted**2).sum(-1)
    return _ratio(agreement, np.sqrt(spread_t * spread_p))


def _ratio(top: Floats, bottom: Floats | Ints) -> NDArray[np.float64]:
    zero = np.zeros(np.broadcast_shapes(np.shape(top), np.shape(bottom)))
    return np.divide(top, bottom, out=zero, where=np.asarray(bottom) > 0)


METRICS: Mapping[str, Metric] = MappingProxyType(
    {
        "accuracy": Metric("accuracy", _accuracy),
        "f1": Metric("f1", _f1),
        "matthews": Metric("matthews", _matthews),
    }
)


def score(name: str, logits: Floats, labels: Ints) -> float:
    """Return metric `name` of the most likely classes: logits (B, C) against labels (B,).

    Raises StepError for logits that are not finite, since their argmax would look like an answer.
    """
    return METRICS[name](_decide(logits), labels, classes=logits.shape[1])


def all_scores(logits: Floats, labels: Ints) -> dict[str, float]:
    """Return every metric by name, for logits (B, C) and labels (B,)."""
    return {name: score(name, logits, labels) for name in METRICS}


def interval(name: str, logits: Floats, labels: Ints) -> tuple[float, float] | None:
    """Return the 95 % interval of metric `name`, or None with fewer than two rows.

    Accuracy has Wilson's interval. The others have a percentile bootstrap over rows: 1000
    resamples, seeded, so that equal inputs have equal intervals.
    """
    predictions = _decide(logits)
    if len(labels) < 2:
        return None
    if name == "accuracy":
        return wilson(int((predictions == labels).sum()), len(labels))
    values = METRICS[name].of_counts(_resampled(predictions, labels, logits.shape[1]))
    low, high = np.quantile(values, [0.025, 0.975])
    return float(low), float(high)


def _resampled(predictions: Ints, labels: Ints, classes: int) -> _Counts:
    """Return the counts, each (R, C), of R resamples of the rows with replacement.

    Rows with the same label and prediction are alike, so drawing how often each such cell of the
    confusion matrix occurs (a multinomial) is drawing the rows, without touching them.
    """
    cells, frequency = np.unique(labels * classes + predictions, return_counts=True)
    truth, predicted = cells // classes, cells % classes
    drawn = np.random.default_rng(_SEED).multinomial(
        len(labels), frequency / len(labels), size=_RESAMPLES
    )
    members = np.eye(classes)
    return _Counts(
        hits=drawn @ (members[truth] * (truth == predicted)[:, None]),
        truth=drawn @ members[truth],
        predicted=drawn @ members[predicted],
    )


def _decide(logits: Floats) -> NDArray[np.intp]:
    if not np.isfinite(logits).all():
        raise StepError("the model's logits are not all finite, so they decide nothing")
    decided: NDArray[np.intp] = np.argmax(logits, axis=1)
    return decided
