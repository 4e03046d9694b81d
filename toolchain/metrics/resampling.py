"""Bootstrap over rows: how often each row is drawn, and the interval that follows.

Shape letters: R rows, S sums, W resamples.
"""

from collections.abc import Callable, Iterator

import numpy as np
from numpy.typing import NDArray

__all__ = ["RESAMPLES", "SEED", "bootstrap", "quantiles", "ratio"]

RESAMPLES = 1000
SEED = 0

# Resamples drawn together: 100 of 10,000 rows are 8 MB.
_CHUNK = 100

Doubles = NDArray[np.float64]


def bootstrap(rows: int, value: Callable[[Doubles], Doubles]) -> tuple[float, float]:
    """Return the percentile bootstrap's 95 % interval.

    `value` maps weights (W, R), how often each row was drawn, to values (W,). Seeded, so that
    equal inputs have equal intervals.
    """
    return quantiles(np.concatenate([value(weights) for weights in _weights(rows)]))


def _weights(rows: int) -> Iterator[Doubles]:
    generator = np.random.default_rng(SEED)
    offsets = np.arange(_CHUNK)[:, None] * rows
    for _ in range(RESAMPLES // _CHUNK):
        drawn = generator.integers(0, rows, size=(_CHUNK, rows)) + offsets
        counts = np.bincount(drawn.reshape(-1), minlength=_CHUNK * rows)
        yield counts.reshape(_CHUNK, rows).astype(np.float64)


def quantiles(values: NDArray[np.floating]) -> tuple[float, float]:
    """Return the 2.5 % and 97.5 % quantiles."""
    low, high = np.quantile(values, [0.025, 0.975])
    return float(low), float(high)


def ratio(
    top: NDArray[np.floating], bottom: NDArray[np.floating] | NDArray[np.integer]
) -> NDArray[np.float64]:
    """Return top / bottom, 0 where bottom is not positive."""
    found = np.zeros(np.broadcast_shapes(np.shape(top), np.shape(bottom)))
    np.divide(top, bottom, out=found, where=np.asarray(bottom) > 0)
    return found
