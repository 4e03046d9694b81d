"""Questions about a text, and where their answers stand in it: each place checked."""

import json
from collections.abc import Sequence

from toolchain.data.readers import Table
from toolchain.errors import UsageError

__all__ = ["Answer", "Answers", "read_answers"]

Answer = tuple[int, str]
"""Where an answer begins, in characters of its context, and how it reads."""
Answers = tuple[Answer, ...]
"""Every answer that counts as right; empty where the context holds none."""

_FORM = 'expected {"text": [...], "answer_start": [...]}'


def read_answers(table: Table, column: str, contexts: Sequence[str]) -> list[Answers]:
    """Read lists of answers with their places, as SQuAD writes them.

    A value is an object of two lists, a list of objects, or either as JSON text (in a CSV file).
    Raises UsageError naming the row of a value of another form, and of an answer that the context
    does not hold at its place.
    """
    found = []
    for index, value in enumerate(table.values(column)):
        texts, starts = _lists(table, index, column, value)
        if len(texts) != len(starts):
            raise UsageError(
                f"{table.at(index)}: {column} has {len(texts)} texts but {len(starts)} of "
                "answer_start, expected one for each"
            )
        found.append(
            tuple(
                _checked(table, index, column, text, start, contexts[index])
                for text, start in zip(texts, starts, strict=True)
            )
        )
    return found


def _lists(table: Table, index: int, column: str, value: object) -> tuple[list[object], ...]:
    if isinstance(value, str):
        try:
            value = json.loads(value)
        except (ValueError, RecursionError):
            raise UsageError(
                f"{table.at(index)}: {column} is text that is not JSON, {_FORM}"
            ) from None
    if isinstance(value, list) and all(isinstance(item, dict) for item in value):
        value = {key: [item.get(key) for item in value] for key in ("text", "answer_start")}
    if not isinstance(value, dict):
        raise UsageError(f"{table.at(index)}: {column} is {type(value).__name__}, {_FORM}")
    lists = tuple(value.get(key) for key in ("text", "answer_start"))
    if not all(isinstance(items, list) for items in lists):
        keys = ", ".join(map(str, value)) or "none"
        raise UsageError(f"{table.at(index)}: {column} has the keys {keys}, {_FORM}")
    return lists  # type: ignore[return-value]


def _checked(
    table: Table, index: int, column: str, text: object, start: object, context: str
) -> Answer:
    where = f"{table.at(index)}: {column}"
    if not isinstance(text, str) or not text.strip():
        raise UsageError(
            f"{where} holds an answer without text",
            "a question that has no answer has empty lists",
        )
    if not isinstance(start, int) or isinstance(start, bool):
        raise UsageError(f"{where}: answer_start is {start!r}, expected a number of characters")
    stands = context[start : start + len(text)] if start >= 0 else ""
    if stands != text:
        raise UsageError(
            f"{where}: {text[:40]!r} does not stand at character {start} of the context, which "
            f"reads {stands[:40]!r} there",
            "answer_start counts characters from 0, not bytes",
        )
    return start, text
