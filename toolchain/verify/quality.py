"""The task metric of a model on one split, with its interval and the part of the teacher's kept."""

import numpy as np
from numpy.typing import NDArray

from toolchain.measurement import Metric
from toolchain.metrics import Outputs, all_scores, interval, score, sign

__all__ = ["measure"]


def measure(
    metric: str,
    outputs: Outputs,
    labels: NDArray[np.integer] | NDArray[np.floating] | None,
    *,
    split: str,
    teacher: float | None,
) -> Metric:
    """Score what a model answered and relate the value to the teacher's.

    `outputs` and `labels` are those of `metrics.score`. `kept` is value / teacher, or the other way
    round where lower is better; None without a teacher or where either is not positive, as a ratio
    to zero or to less than chance says nothing. The other metrics stand in `others`.
    """
    value = score(metric, outputs, labels)
    scores = all_scores(outputs, labels)
    return Metric(
        name=metric,
        value=value,
        split=split,
        rows=len(outputs),
        ci95=interval(metric, outputs, labels),
        kept=_kept(metric, value, teacher),
        others={name: figure for name, figure in scores.items() if name != metric},
    )


def _kept(metric: str, value: float, teacher: float | None) -> float | None:
    if teacher is None or teacher <= 0:
        return None
    if sign(metric) > 0:
        return value / teacher
    return teacher / value if value > 0 else None
