"""How well outputs agree with labels: the metrics of every task and their 95 % intervals.

A metric knows the tasks it is for and its direction; `score` is the figure as people know it, and
`better` says which of two is to be kept.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Literal, Protocol

import numpy as np

from toolchain.errors import UsageError
from toolchain.metrics import counts, ranks, replies, similarity, sums
from toolchain.metrics.outputs import (
    Embeddings,
    Labels,
    Outputs,
    Replies,
    TagLogits,
    TokenSums,
    is_finite,
)
from toolchain.metrics.spans import not_bio

__all__ = [
    "METRICS",
    "Embeddings",
    "Metric",
    "Outputs",
    "Replies",
    "TagLogits",
    "TokenSums",
    "all_scores",
    "better",
    "for_task",
    "interval",
    "is_finite",
    "resolve",
    "score",
    "sign",
]


class _Figure(Protocol):
    """What computes a metric and its interval."""

    # The outputs and labels a figure reads follow from its task, which `score` checks.
    def value(self, outputs: Any, labels: Any, /) -> float:
        """Return the metric."""

    def interval(self, outputs: Any, labels: Any, /) -> tuple[float, float]:
        """Return its 95 % interval."""


@dataclass(frozen=True, kw_only=True)
class Metric:
    """A metric by the name that recipes use, the tasks it is for, and which way is better."""

    name: str
    tasks: tuple[str, ...]
    figure: _Figure
    sign: Literal[1, -1] = 1


_LANGUAGE = ("causal_lm", "mask_lm")

METRICS: Mapping[str, Metric] = MappingProxyType(
    {
        metric.name: metric
        # The first metric of a task is its default.
        for metric in (
            Metric(name="accuracy", tasks=("classify",), figure=counts.ACCURACY),
            Metric(name="f1", tasks=("classify",), figure=counts.F1),
            Metric(name="matthews", tasks=("classify",), figure=counts.MATTHEWS),
            Metric(name="micro_f1", tasks=("multi_label",), figure=sums.MICRO_F1),
            Metric(name="macro_f1", tasks=("multi_label",), figure=sums.MACRO_F1),
            Metric(name="subset_accuracy", tasks=("multi_label",), figure=sums.SUBSET_ACCURACY),
            Metric(name="pearson", tasks=("regress",), figure=sums.PEARSON),
            Metric(name="spearman", tasks=("regress", "embed"), figure=ranks.SPEARMAN),
            Metric(name="cosine", tasks=("embed",), figure=similarity.COSINE),
            Metric(name="mse", tasks=("regress",), figure=sums.MSE, sign=-1),
            Metric(name="entity_f1", tasks=("tag",), figure=sums.ENTITY_F1),
            Metric(name="answer_f1", tasks=("qa",), figure=replies.ANSWER_F1),
            Metric(name="exact_match", tasks=("qa",), figure=replies.EXACT_MATCH),
            Metric(name="loss", tasks=_LANGUAGE, figure=sums.LOSS, sign=-1),
            Metric(name="perplexity", tasks=_LANGUAGE, figure=sums.PERPLEXITY, sign=-1),
            Metric(name="token_accuracy", tasks=("tag", *_LANGUAGE), figure=sums.TOKEN_ACCURACY),
        )
    }
)


def for_task(task: str) -> tuple[str, ...]:
    """Return the metrics of a task, its default first. Raises UsageError for one without."""
    names = tuple(name for name, metric in METRICS.items() if task in metric.tasks)
    if not names:
        raise UsageError(f"the task {task} has no metric", "name a task with data.task")
    return names


def resolve(asked: str, task: str, names: Sequence[str] = ()) -> str:
    """Return the metric to use: the one asked for, or the task's default for "auto".

    `names` are the classes or tags. Raises UsageError for a metric that does not fit the task,
    naming those that do, and for entities in tags that are not BIO.
    """
    allowed = for_task(task)
    other = not_bio(names) if task == "tag" else None
    if other is not None:
        allowed = tuple(name for name in allowed if name != "entity_f1")
    if asked == "auto":
        return allowed[0]
    if asked == "entity_f1" and other is not None:
        raise UsageError(
            f"metric entity_f1 needs BIO tags (O, B-x, I-x), found the tag {other!r}",
            f"use {' or '.join(allowed)}",
        )
    if asked not in allowed:
        raise UsageError(
            f"metric {asked} does not fit the task {task}, expected one of {', '.join(allowed)}",
            f"leave metric to auto for {allowed[0]}",
        )
    return asked


def sign(name: str) -> Literal[1, -1]:
    """Return 1 where higher is better, -1 where lower is."""
    return METRICS[name].sign


def better(name: str, value: float, than: float | None) -> bool:
    """Return whether one value of metric `name` is better than another, or than none."""
    return than is None or sign(name) * value > sign(name) * than


def score(name: str, outputs: Outputs, labels: Labels | None) -> float:
    """Return metric `name` of what a model answered.

    Classification: logits (R, C) and class ids (R,), the most likely class counts. Multi-label:
    logits (R, C) and 0 or 1 (R, C), on above 0.5. Regression: scores (R, 1) and floats (R,).
    Tagging: TagLogits and tag ids (P,). Language models: TokenSums and None. Embeddings: Embeddings
    of R texts, and scores of R / 2 pairs or another model's embeddings (R, D). Questions: Replies,
    which hold the right answers, and None.

    Raises StepError for outputs that are not finite, since they would look like an answer.
    """
    return METRICS[name].figure.value(outputs, _fitting(name, outputs, labels))


def all_scores(outputs: Outputs, labels: Labels | None) -> dict[str, float]:
    """Return every metric of the task these outputs and labels belong to, by name."""
    known = [name for name, metric in METRICS.items() if _kind(outputs, labels) in metric.tasks]
    return {name: score(name, outputs, labels) for name in known if _has(name, outputs, labels)}


def interval(name: str, outputs: Outputs, labels: Labels | None) -> tuple[float, float] | None:
    """Return the 95 % interval of metric `name`, or None with fewer than two rows.

    Accuracy has Wilson's interval. The others have a percentile bootstrap over rows: 1000
    resamples, seeded, so that equal inputs have equal intervals.
    """
    found = _fitting(name, outputs, labels)
    if len(outputs) < 2:
        # So that one row of NaN is refused like many.
        score(name, outputs, labels)
        return None
    return METRICS[name].figure.interval(outputs, found)


def _fitting(name: str, outputs: Outputs, labels: Labels | None) -> Labels | None:
    kind = _kind(outputs, labels)
    assert kind in METRICS[name].tasks, f"{name} cannot be computed for the task {kind}"
    return labels


def _has(name: str, outputs: Outputs, labels: Labels | None) -> bool:
    if name == "cosine":
        assert isinstance(outputs, Embeddings)
        return labels is not None and labels.shape == outputs.vectors.shape
    plain = isinstance(outputs, TagLogits) and not_bio(outputs.names) is not None
    return name != "entity_f1" or not plain


def _kind(outputs: Outputs, labels: Labels | None) -> str:
    """Return the task whose outputs and labels have this form."""
    if isinstance(outputs, TagLogits):
        return "tag"
    if isinstance(outputs, TokenSums):
        return "causal_lm"
    if isinstance(outputs, Embeddings):
        return "embed"
    if isinstance(outputs, Replies):
        return "qa"
    assert labels is not None, "these outputs are compared with labels"
    if labels.ndim == 2:
        return "multi_label"
    return "regress" if np.issubdtype(labels.dtype, np.floating) else "classify"
