"""Rows in one JSON document: a list of objects, or questions in SQuAD's own nesting."""

import json
from pathlib import Path
from typing import Any

from toolchain.errors import UsageError

__all__ = ["rows_of"]

_NESTED = ("data", "paragraphs", "qas")


def rows_of(path: Path, text: str) -> list[dict[str, object]]:
    """Return the objects of a document.

    SQuAD's files (data, paragraphs, qas) are flattened to `id`, `question`, `context` and
    `answers`, which is empty for a question that `is_impossible`. Raises UsageError.
    """
    try:
        content = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise UsageError(f"{path}: not valid JSON: {error}") from None
    if isinstance(content, dict) and isinstance(content.get("data"), list):
        rows: list[Any] = content["data"]
        if any(isinstance(row, dict) and "paragraphs" in row for row in rows):
            return _flattened(path, rows)
    elif isinstance(content, list):
        rows = content
    else:
        raise UsageError(
            f"{path}: expected a list of objects, or an object with a list called data",
            "one object per line is .jsonl",
        )
    for number, row in enumerate(rows, start=1):
        if not isinstance(row, dict):
            raise UsageError(f"{path}: row {number}: expected an object")
    return rows


def _flattened(path: Path, articles: list[Any]) -> list[dict[str, object]]:
    found: list[dict[str, object]] = []
    try:
        for article in articles:
            for paragraph in article["paragraphs"]:
                for asked in paragraph["qas"]:
                    none = bool(asked.get("is_impossible", False))
                    found.append(
                        {
                            "id": asked.get("id"),
                            "question": asked["question"],
                            "context": paragraph["context"],
                            "answers": [] if none else asked["answers"],
                        }
                    )
    except (KeyError, TypeError, AttributeError) as error:
        raise UsageError(
            f"{path}: question {len(found) + 1}: not nested as SQuAD's files are "
            f"({' > '.join(_NESTED)}): {error!r}"
        ) from None
    return found
