"""Questions about texts as windows of tokens, and windows' figures as answers.

A context longer than the model reads is cut into windows that share a third of their tokens; each
window holds the question before its part of the context. What is to be learned of a window are the
tokens at which the answer begins and ends, both the first token (BERT's [CLS]) where the window
does not hold the answer: so BERT was trained on SQuAD (github.com/google-research/bert,
run_squad.py). An answer is the span of at most 30 tokens whose begin and end have the highest sum,
over all windows; none where questions may have none and the first token's sum, the lowest of all
windows, is higher (the same script, null_score_diff_threshold 0).

Shape letters: R windows, N tokens.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from tokenizers import Encoding
from transformers import PreTrainedTokenizerFast

from toolchain.data.asking import Answers
from toolchain.errors import UsageError

__all__ = ["LONGEST", "Asked", "Best", "Windows", "best_of", "replies_of", "window", "windows"]

LONGEST = 30
"""Tokens of an answer at most."""

_OVERLAP = 3
# The part of the room that a question may take: the rest is for its context.
_QUESTION = 2

Ids = NDArray[np.int64]


@dataclass(frozen=True, kw_only=True)
class Asked:
    """The questions behind windows: contexts, the texts of right answers, and where windows lie.

    `questions` (R,) numbers the question of each window; `offsets` holds for each window (N, 2) the
    first character of a token in the context and the one after its last, -1 for other tokens.
    `unanswered` says whether giving no answer is an answer.
    """

    contexts: tuple[str, ...]
    answers: tuple[tuple[str, ...], ...]
    questions: Ids
    offsets: tuple[Ids, ...]
    unanswered: bool


class Windows(NamedTuple):
    """Features of windows, begin and end (R, 2) to learn, the questions, how many were cut."""

    features: list[Mapping[str, Ids]]
    ends: Ids
    asked: Asked
    cut: int


class Best(NamedTuple):
    """A window's best span: the sum of its figures, its characters; and the first token's sum."""

    score: float
    start: int
    end: int
    none: float


def windows(
    tokenizer: PreTrainedTokenizerFast,
    questions: Sequence[str],
    contexts: Sequence[str],
    answers: Sequence[Answers],
    *,
    max_tokens: int,
    unanswered: bool,
) -> Windows:
    """Cut questions with their contexts into windows. Raises UsageError where nothing fits."""
    encoded = tokenizer(
        list(questions), list(contexts), padding=False, truncation=False, verbose=False
    )
    features: list[Mapping[str, Ids]] = []
    ends: list[tuple[int, int]] = []
    numbers: list[int] = []
    offsets: list[Ids] = []
    cut = 0
    for number, encoding in enumerate(encoded.encodings or ()):
        parts = window(encoding.sequence_ids, max_tokens)
        cut += len(parts) > 1 or len(parts[0]) < len(encoding.ids)
        places = _places(encoding)
        right = answers[number][0] if answers[number] else None
        for part in parts:
            taken = np.asarray(part, dtype=np.int64)
            features.append(
                {
                    name: np.asarray(values[number], dtype=np.int64)[taken]
                    for name, values in encoded.items()
                }
            )
            numbers.append(number)
            offsets.append(places[taken])
            answer = None if right is None else (right[0], right[0] + len(right[1]))
            ends.append(_ends(places, taken, answer))
    asked = Asked(
        contexts=tuple(contexts),
        answers=tuple(tuple(text for _, text in row) for row in answers),
        questions=np.asarray(numbers, dtype=np.int64),
        offsets=tuple(offsets),
        unanswered=unanswered,
    )
    return Windows(features, np.asarray(ends, dtype=np.int64).reshape(-1, 2), asked, cut)


def window(sequence_ids: Sequence[int | None], max_tokens: int) -> list[list[int]]:
    """Return which tokens of a question with its whole context each window holds, in order.

    `sequence_ids` are 0 in the question, 1 in the context, None at special tokens, which every
    window has. A question loses its end where it would take more than half of the room. Raises
    UsageError where there is no room for a context.
    """
    special = [i for i, side in enumerate(sequence_ids) if side is None]
    question = [i for i, side in enumerate(sequence_ids) if side == 0]
    context = [i for i, side in enumerate(sequence_ids) if side == 1]
    room = max_tokens - len(special)
    question = question[: max(0, room) // _QUESTION]
    room -= len(question)
    if room < 1:
        raise UsageError(f"data.max_tokens is {max_tokens}, too few for a question and a context")
    step = room - room // _OVERLAP
    starts = range(0, max(1, len(context) - room // _OVERLAP), step)
    return [sorted([*special, *question, *context[s : s + room]]) for s in starts]


def _places(encoding: Encoding) -> Ids:
    """Return the characters (N, 2) of the context's tokens, -1 for all others."""
    places = np.asarray(encoding.offsets, dtype=np.int64).reshape(-1, 2)
    places[[side != 1 for side in encoding.sequence_ids]] = -1
    return places


def _ends(places: Ids, taken: Ids, answer: tuple[int, int] | None) -> tuple[int, int]:
    """Return the first and last token of an answer within a window, (0, 0) if it is not there."""
    if answer is None:
        return 0, 0
    # Tokens that share a character with it; a token of no character (a mark of a blank) has none.
    inside = (np.minimum(places[:, 1], answer[1]) > np.maximum(places[:, 0], answer[0])).nonzero()[
        0
    ]
    own = np.isin(taken, inside).nonzero()[0]
    return (int(own[0]), int(own[-1])) if 0 < len(inside) == len(own) else (0, 0)


def best_of(ends_N2: NDArray[np.floating], offsets_N2: Ids) -> Best:
    """Return a window's best span, from figures for begin and end at its N tokens.

    Its score is -inf where the window holds nothing of the context.
    """
    none = float(ends_N2[0].sum())
    context = (offsets_N2[:, 0] >= 0).nonzero()[0]
    if not len(context):
        return Best(-np.inf, 0, 0, none)
    begin, end = ends_N2[context].astype(np.float64).T
    width = min(LONGEST, len(context))
    padded = np.concatenate([end, np.full(width - 1, -np.inf)])
    within = np.lib.stride_tricks.sliding_window_view(padded, width)
    last = within.argmax(axis=1)
    sums = begin + within.max(axis=1)
    first = int(sums.argmax())
    start, stop = offsets_N2[context[first], 0], offsets_N2[context[first + int(last[first])], 1]
    return Best(float(sums[first]), int(start), int(stop), none)


def replies_of(asked: Asked, found: Sequence[Best]) -> list[str]:
    """Return the answer to every question from what its windows say, "" for none."""
    replies = []
    by_question: list[list[Best]] = [[] for _ in asked.contexts]
    for question, best in zip(asked.questions, found, strict=True):
        by_question[question].append(best)
    for context, own in zip(asked.contexts, by_question, strict=True):
        best = max(own, key=lambda b: b.score)
        lost = asked.unanswered and min(b.none for b in own) > best.score
        # Some tokens take the blank before a word with them.
        replies.append("" if lost else context[best.start : best.end].strip())
    return replies
