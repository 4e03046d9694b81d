"""Metrics that are a function of sums over rows, so that a resample is one matrix product.

Multi-label F1, subset accuracy, Pearson's r, mean squared error, entity F1, token accuracy, loss
and perplexity are all of this form. Shape letters: R rows, C labels, S sums.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from toolchain.errors import StepError
from toolchain.metrics.outputs import Embeddings, Labels, Outputs, TagLogits, TokenSums, checked
from toolchain.metrics.resampling import bootstrap, ratio
from toolchain.metrics.similarity import cosines_and_scores
from toolchain.metrics.spans import entities

__all__ = [
    "ENTITY_F1",
    "LOSS",
    "MACRO_F1",
    "MICRO_F1",
    "MSE",
    "PEARSON",
    "PERPLEXITY",
    "SUBSET_ACCURACY",
    "TOKEN_ACCURACY",
    "SumMetric",
    "mean_of_rows",
    "scores_of",
]

Doubles = NDArray[np.float64]


@dataclass(frozen=True)
class SumMetric:
    """`rows_of` gives what a row adds, (R, S); `of_sums` turns sums (..., S) into values (...)."""

    rows_of: Callable[[Outputs, Labels | None], Doubles]
    of_sums: Callable[[Doubles], Doubles]

    def value(self, outputs: Outputs, labels: Labels | None) -> float:
        """Return the metric."""
        return float(self.of_sums(self.rows_of(outputs, labels).sum(0)))

    def interval(self, outputs: Outputs, labels: Labels | None) -> tuple[float, float]:
        """Return the percentile bootstrap's 95 % interval over rows."""
        rows = self.rows_of(outputs, labels)
        return bootstrap(len(rows), lambda weights: self.of_sums(weights @ rows))


def _sets(outputs: Outputs, labels: Labels | None) -> Doubles:
    """Return hits, truth and predicted of each label, (R, 3 C): a label is on above 0.5."""
    assert isinstance(outputs, np.ndarray)
    assert labels is not None
    on = checked(outputs) > 0
    gold = labels > 0.5
    return np.concatenate([on & gold, gold, on], axis=1).astype(np.float64)


def _thirds(sums: Doubles) -> tuple[Doubles, Doubles, Doubles]:
    width = sums.shape[-1] // 3
    return sums[..., :width], sums[..., width : 2 * width], sums[..., 2 * width :]


def _micro_f1(sums: Doubles) -> Doubles:
    """F1 of all (row, label) decisions taken together; 0 where nothing is or is said to be on."""
    hits, truth, predicted = _thirds(sums)
    return ratio(2 * hits.sum(-1), truth.sum(-1) + predicted.sum(-1))


def _macro_f1(sums: Doubles) -> Doubles:
    """Mean F1 over the labels that occur in the data or the answers."""
    hits, truth, predicted = _thirds(sums)
    both = truth + predicted
    return ratio(ratio(2 * hits, both).sum(-1), (both > 0).sum(-1))


def _equal_sets(outputs: Outputs, labels: Labels | None) -> Doubles:
    """Return whether a row's whole set of labels is right, and 1: (R, 2)."""
    assert isinstance(outputs, np.ndarray)
    assert labels is not None
    right = ((checked(outputs) > 0) == (labels > 0.5)).all(axis=1)
    return _with_ones(right)


def _moments(outputs: Outputs, labels: Labels | None) -> Doubles:
    """Return 1, x, y, x^2, y^2, x y of predictions x and scores y, (R, 6)."""
    x, y = scores_of(outputs, labels)
    # Centred on the whole sample: r does not change, its rounding errors do.
    x, y = x - x.mean(), y - y.mean()
    return np.stack([np.ones_like(x), x, y, x * x, y * y, x * y], axis=1)


def scores_of(outputs: Outputs, labels: Labels | None) -> tuple[Doubles, Doubles]:
    """Return predicted and true scores, each (R,), from outputs (R, 1) or (R,).

    What embeddings predict of a pair of texts is their cosine.
    """
    assert labels is not None
    if isinstance(outputs, Embeddings):
        return cosines_and_scores(outputs, labels)
    assert isinstance(outputs, np.ndarray)
    return checked(outputs).astype(np.float64).reshape(len(labels)), labels.astype(np.float64)


def _pearson(sums: Doubles) -> Doubles:
    """Pearson's r; 0 where either side does not vary."""
    n, x, y, xx, yy, xy = np.moveaxis(sums, -1, 0)
    spread_x = np.maximum(n * xx - x * x, 0.0)
    spread_y = np.maximum(n * yy - y * y, 0.0)
    # What rounding leaves of a constant is no spread.
    alive = (spread_x > 1e-12 * n * xx) & (spread_y > 1e-12 * n * yy)
    return np.asarray(ratio(n * xy - x * y, np.sqrt(np.where(alive, spread_x * spread_y, 0.0))))


def _squares(outputs: Outputs, labels: Labels | None) -> Doubles:
    x, y = scores_of(outputs, labels)
    return _with_ones((x - y) ** 2)


def mean_of_rows(sums: Doubles) -> Doubles:
    """Return the mean of values (..., 2) that were added up beside their number."""
    return ratio(sums[..., 0], sums[..., 1])


def _with_ones(values: NDArray[np.floating] | NDArray[np.bool_]) -> Doubles:
    column = values.astype(np.float64)
    return np.stack([column, np.ones_like(column)], axis=1)


def _spans(outputs: Outputs, labels: Labels | None) -> Doubles:
    """Return entities that are right, true and predicted per row, (R, 3)."""
    assert isinstance(outputs, TagLogits)
    assert labels is not None
    predicted = checked(outputs.logits).argmax(axis=1)
    names = np.array(outputs.names, dtype=object)
    rows = []
    for start, end in zip(outputs.starts[:-1], outputs.starts[1:], strict=True):
        gold = entities(names[labels[start:end].astype(np.int64)].tolist())
        found = entities(names[predicted[start:end]].tolist())
        rows.append((len(gold & found), len(gold), len(found)))
    return np.array(rows, dtype=np.float64).reshape(-1, 3)


def _span_f1(sums: Doubles) -> Doubles:
    """Micro F1 of entities; 0 where there are none on both sides."""
    hits, truth, predicted = np.moveaxis(sums, -1, 0)
    return ratio(2 * hits, truth + predicted)


def _right_tokens(outputs: Outputs, labels: Labels | None) -> Doubles:
    """Return how many tokens are right and how many there are, (R, 2)."""
    if isinstance(outputs, TokenSums):
        return np.stack([outputs.right, outputs.tokens], axis=1).astype(np.float64)
    assert isinstance(outputs, TagLogits)
    assert labels is not None
    right = checked(outputs.logits).argmax(axis=1) == labels
    total = np.concatenate([[0], np.cumsum(right)])
    per_row = np.diff(total[outputs.starts])
    return np.stack([per_row, np.diff(outputs.starts)], axis=1).astype(np.float64)


def _losses(outputs: Outputs, labels: Labels | None) -> Doubles:  # noqa: ARG001
    """Return summed -log p and tokens, (R, 2)."""
    assert isinstance(outputs, TokenSums)
    if not np.isfinite(outputs.nll).all():
        raise StepError("the model's loss is not finite on some rows")
    return np.stack([outputs.nll, outputs.tokens.astype(np.float64)], axis=1)


def _perplexity(sums: Doubles) -> Doubles:
    """exp of the mean loss per token, as far as it can be written down."""
    return np.exp(np.minimum(mean_of_rows(sums), 700.0))


MICRO_F1 = SumMetric(_sets, _micro_f1)
MACRO_F1 = SumMetric(_sets, _macro_f1)
SUBSET_ACCURACY = SumMetric(_equal_sets, mean_of_rows)
PEARSON = SumMetric(_moments, _pearson)
MSE = SumMetric(_squares, mean_of_rows)
ENTITY_F1 = SumMetric(_spans, _span_f1)
TOKEN_ACCURACY = SumMetric(_right_tokens, mean_of_rows)
LOSS = SumMetric(_losses, mean_of_rows)
PERPLEXITY = SumMetric(_losses, _perplexity)
