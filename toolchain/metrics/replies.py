"""Answers to questions against the right ones, as the official script of SQuAD judges them.

Answers are compared in small letters, without punctuation, articles and further blanks, each with
the right one it is most like (Rajpurkar et al. 2018, arXiv 1806.03822, evaluate-v2.0.py; 1.1's
script agrees wherever both have text). Where a question has no answer, giving none is right.
"""

import re
import string
from collections import Counter
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from toolchain.errors import StepError
from toolchain.metrics.outputs import Labels, Outputs, Replies
from toolchain.metrics.sums import SumMetric, mean_of_rows

__all__ = ["ANSWER_F1", "EXACT_MATCH", "exact", "normalised", "overlap"]

_ARTICLES = re.compile(r"\b(a|an|the)\b")
_SIGNS = str.maketrans("", "", string.punctuation)


def normalised(text: str) -> str:
    """Return a text as answers are compared."""
    return " ".join(_ARTICLES.sub(" ", text.lower().translate(_SIGNS)).split())


def exact(found: str, right: str) -> float:
    """Return 1 where two answers are the same, else 0."""
    return float(normalised(found) == normalised(right))


def overlap(found: str, right: str) -> float:
    """Return the F1 of the words that two answers share; without any words, whether both have none.

    A word counts as often as it occurs in both.
    """
    ours, theirs = normalised(found).split(), normalised(right).split()
    if not ours or not theirs:
        return float(ours == theirs)
    shared = sum((Counter(ours) & Counter(theirs)).values())
    return 2 * shared / (len(ours) + len(theirs))


def _judged(judge: Callable[[str, str], float]) -> SumMetric:
    def rows(outputs: Outputs, labels: Labels | None) -> NDArray[np.float64]:  # noqa: ARG001
        """Return each answer's best figure, and 1: (R, 2)."""
        assert isinstance(outputs, Replies)
        if not outputs.finite:
            raise StepError("the model's logits are not all finite, so they decide nothing")
        found = [
            max(judge(text, answer) for answer in _right(answers))
            for text, answers in zip(outputs.texts, outputs.answers, strict=True)
        ]
        return np.stack([np.array(found), np.ones(len(found))], axis=1)

    return SumMetric(rows, mean_of_rows)


def _right(answers: tuple[str, ...]) -> list[str]:
    """Return the answers that say anything; where none does, no answer is right."""
    return [answer for answer in answers if normalised(answer)] or [""]


EXACT_MATCH = _judged(exact)
ANSWER_F1 = _judged(overlap)
