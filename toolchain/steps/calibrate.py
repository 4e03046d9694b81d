"""Which texts a precision may look at before it rounds: a fixed draw from the training split."""

from pathlib import Path

import numpy as np

from toolchain.data.batching import in_order
from toolchain.data.sources import TaskData
from toolchain.data.tokenizing import tokenize_split
from toolchain.models.loading import load_tokenizer
from toolchain.optimize.precision import Calibration

__all__ = ["calibration_rows"]

_ROWS = 128


def calibration_rows(
    folder: Path, task: TaskData, *, max_tokens: int, seed: int, count: int = _ROWS
) -> Calibration:
    """Return up to `count` training rows as the model in a folder reads them, each (1, N).

    Never of dev or test, which judge what is made with them.
    """
    rows = tokenize_split(load_tokenizer(folder), task.train, task, max_tokens=max_tokens)
    batches = list(in_order(rows, 1))
    chosen = np.random.default_rng(seed).permutation(len(batches))[:count]
    return [
        {name: tensor.numpy() for name, tensor in batches[i].inputs.items()} for i in sorted(chosen)
    ]
