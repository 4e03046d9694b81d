"""Rows asked one by one: for runtimes whose graphs hold one row, without its padding.

Shape letters: B batch, N tokens, C outcomes.
"""

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from toolchain.errors import UsageError
from toolchain.runtimes.runtime import Feed

__all__ = ["Ask", "by_rows"]

Ask = Callable[[Feed], NDArray[np.float32]]
"""Answers one row of N real tokens, its arrays (1, N): its logits, (C,) or (N, C)."""


def by_rows(path: Path, names: Sequence[str], feed: Feed, ask: Ask) -> NDArray[np.float32]:
    """Return the logits, (B, C) or (B, N, C), of a feed of (B, N) arrays.

    Padding is on the right; what it would answer is left at 0. Raises UsageError where the feed
    lacks one of the inputs `names` of the model at `path`.
    """
    missing = [name for name in names if name not in feed]
    if missing:
        raise UsageError(
            f"{path}: the graph asks for {missing[0]!r}, the feed has {', '.join(feed)}"
        )
    ids_BN = feed["input_ids"]
    mask_BN = feed.get("attention_mask", np.ones_like(ids_BN))
    rows = [
        ask({name: feed[name][row : row + 1, :tokens] for name in names})
        for row, tokens in enumerate(_ends(mask_BN).tolist())
    ]
    if rows[0].ndim == 1:
        return np.stack(rows)
    found = np.zeros((*ids_BN.shape, rows[0].shape[-1]), np.float32)
    for row, logits_NC in enumerate(rows):
        found[row, : len(logits_NC)] = logits_NC
    return found


def _ends(mask_BN: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return how many tokens of each row come before its padding, at least one, (B,)."""
    places = np.arange(1, mask_BN.shape[1] + 1)
    return np.asarray((mask_BN.astype(bool) * places).max(axis=1).clip(min=1))
