"""Which texts a precision may look at before it rounds: a fixed draw from the training split."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from toolchain.data.batching import in_order
from toolchain.data.sources import Split, TaskData
from toolchain.data.tokenizing import tokenize_split
from toolchain.models.loading import load_tokenizer
from toolchain.optimize.precision import Calibration
from toolchain.spec import LANGUAGE

__all__ = ["calibration_rows"]

_ROWS = 128


def calibration_rows(
    folder: Path, task: TaskData, *, max_tokens: int, seed: int, count: int = _ROWS
) -> Calibration:
    """Return up to `count` training rows as the model in a folder reads them, each (1, N).

    Never of dev or test, which judge what is made with them.
    """
    split, tokenizer = task.train, load_tokenizer(folder)
    if task.task not in LANGUAGE:
        # Rows are texts, so that only those drawn need be read. Running text is cut into rows.
        split = _taken(split, _draw(len(split), count, seed))
    batches = list(in_order(tokenize_split(tokenizer, split, task, max_tokens=max_tokens), 1))
    drawn = _draw(len(batches), count, seed)
    return [
        {name: tensor.numpy() for name, tensor in batches[i].inputs.items()} for i in sorted(drawn)
    ]


def _draw(rows: int, count: int, seed: int) -> list[int]:
    return sorted(int(i) for i in np.random.default_rng(seed).permutation(rows)[:count])


def _taken(split: Split, rows: Sequence[int]) -> Split:
    second, words, answers = split.texts_b, split.words, split.answers
    return replace(
        split,
        texts=tuple(split.texts[i] for i in rows),
        texts_b=None if second is None else tuple(second[i] for i in rows),
        labels=tuple(split.labels[i] for i in rows) if split.labels else (),
        words=None if words is None else tuple(words[i] for i in rows),
        answers=None if answers is None else tuple(answers[i] for i in rows),
    )
