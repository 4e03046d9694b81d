"""The task metric of a model on one split, with its interval and the part of the teacher's kept."""

import numpy as np
from numpy.typing import NDArray

from toolchain.measurement import Metric
from toolchain.metrics import all_scores, interval, score

__all__ = ["measure"]


def measure(
    metric: str,
    logits: NDArray[np.floating],
    labels: NDArray[np.integer],
    *,
    split: str,
    teacher: float | None,
) -> Metric:
    """Score logits (R, C) against labels (R,) and relate the value to the teacher's.

    `kept` is value / teacher; None without a teacher or where its value is not positive, as a
    ratio to zero or to less than chance says nothing. The other metrics stand in `others`.
    """
    value = score(metric, logits, labels)
    scores = all_scores(logits, labels)
    return Metric(
        name=metric,
        value=value,
        split=split,
        rows=len(labels),
        ci95=interval(metric, logits, labels),
        kept=value / teacher if teacher is not None and teacher > 0 else None,
        others={name: figure for name, figure in scores.items() if name != metric},
    )
