"""Real rows turned into the feeds a model is timed on.

A row is what the tokenizer gave for one example: 1-D int64 arrays of one length, `input_ids`,
`attention_mask` and maybe `token_type_ids`. Shape letters: B batch, N tokens.
"""

from collections.abc import Iterator, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from toolchain.errors import UsageError
from toolchain.runtimes.runtime import Feed

__all__ = ["Row", "fixed_length", "task_lengths"]

Row = Mapping[str, NDArray[np.int64]]

_MASK = "attention_mask"
_SPECIAL = 2


def _real(row: Row) -> dict[str, NDArray[np.int64]]:
    """Return the row without its padding."""
    kept = row[_MASK].astype(bool)
    return {name: values[kept] for name, values in row.items()}


def _checked(rows: Sequence[Row]) -> list[dict[str, NDArray[np.int64]]]:
    if not rows:
        raise UsageError("no rows to time on", "give encoded rows of the task's dev split")
    for number, row in enumerate(rows):
        shapes = {name: values.shape for name, values in row.items()}
        if "input_ids" not in row or _MASK not in row:
            raise UsageError(f"row {number}: has {', '.join(row)}, expected input_ids and {_MASK}")
        if len(set(shapes.values())) != 1 or len(shapes["input_ids"]) != 1:
            raise UsageError(f"row {number}: expected 1-D arrays of one length, found {shapes}")
        if not row[_MASK].any():
            raise UsageError(f"row {number}: its {_MASK} leaves no token")
    return [_real(row) for row in rows]


def _pieces(
    rows: Sequence[dict[str, NDArray[np.int64]]], tokens: int, start: int
) -> dict[str, NDArray[np.int64]]:
    """Return exactly `tokens` positions: the start row's ends around the rows' joined insides."""
    first = rows[start]
    joined: dict[str, list[NDArray[np.int64]]] = {name: [first[name][:1]] for name in first}
    missing = tokens - _SPECIAL
    position = start
    while missing > 0:
        row = rows[position % len(rows)]
        for name in first:
            joined[name].append(row[name][1:-1][:missing])
        missing -= min(missing, len(row["input_ids"]) - _SPECIAL)
        position += 1
    for name in first:
        joined[name].append(first[name][-1:])
    return {name: np.concatenate(parts) for name, parts in joined.items()}


def _walk(count: int, total: int, seed: int) -> Iterator[int]:
    """Yield `count` indices below `total`: shuffled, every one once before any one twice."""
    order = np.random.default_rng(seed).permutation(total)
    for number in range(count):
        yield int(order[number % total])


def fixed_length(
    rows: Sequence[Row], tokens: int, count: int, seed: int, *, batch: int = 1
) -> list[Feed]:
    """Return `count` feeds (batch, tokens) of real tokens only, with a full mask.

    Every sequence begins and ends with the special tokens of a real row; between them rows are
    joined and cut to the length. Raises UsageError for unusable rows or fewer than 2 tokens.
    """
    if tokens < _SPECIAL:
        raise UsageError(f"a load of {tokens} tokens: expected at least {_SPECIAL}")
    usable = [row for row in _checked(rows) if len(row["input_ids"]) > _SPECIAL]
    if not usable:
        raise UsageError("no row holds a token between its first and its last one")
    starts = list(_walk(count * batch, len(usable), seed))
    sequences = [_pieces(usable, tokens, start) for start in starts]
    return [
        {name: np.stack([sequence[name] for sequence in group]) for name in group[0]}
        for group in (sequences[i : i + batch] for i in range(0, len(sequences), batch))
    ]


def task_lengths(rows: Sequence[Row], count: int, seed: int) -> list[Feed]:
    """Return up to `count` feeds (1, own length): a sample of the rows, no padding, none twice.

    The same rows and seed give the same sample. Raises UsageError for unusable rows.
    """
    usable = _checked(rows)
    chosen = _walk(min(count, len(usable)), len(usable), seed)
    return [{name: values[None, :] for name, values in usable[i].items()} for i in chosen]
