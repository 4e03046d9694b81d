"""Rows of a table as text and labels, each value checked and, when bad, named by file and line."""

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace

from toolchain.data.asking import Answers, read_answers
from toolchain.data.columns import Chosen
from toolchain.data.deciding import flag, number
from toolchain.data.readers import Table
from toolchain.errors import UsageError

__all__ = ["RawLabel", "Rows", "read_rows"]

RawLabel = str | float | tuple[str, ...]
"""What the data says of a row: a class, a score, the labels that are on, or a tag per word."""


@dataclass(frozen=True, kw_only=True)
class Rows:
    """Rows of one split with labels as the data spells them; `index` is their place in `table`.

    `words` are those of a tagging task, whose `texts` are the words with blanks between them. A
    language model's rows have no `labels`; `texts_b` are then answers. Nor have questions, whose
    `texts_b` are what they are about and whose `answers` stand in there.
    """

    table: Table
    texts: Sequence[str]
    texts_b: Sequence[str] | None
    labels: Sequence[RawLabel]
    index: Sequence[int]
    words: Sequence[tuple[str, ...]] | None = None
    answers: Sequence[Answers] | None = None

    def take(self, chosen: Sequence[int]) -> "Rows":
        """Return some of the rows."""
        second, words, answers = self.texts_b, self.words, self.answers
        return replace(
            self,
            texts=[self.texts[i] for i in chosen],
            texts_b=None if second is None else [second[i] for i in chosen],
            labels=[self.labels[i] for i in chosen] if self.labels else (),
            index=[self.index[i] for i in chosen],
            words=None if words is None else [words[i] for i in chosen],
            answers=None if answers is None else [answers[i] for i in chosen],
        )

    def keys(self) -> list[str]:
        """Return one string per row that stands for its texts."""
        if self.texts_b is None:
            return list(self.texts)
        return [f"{a}\x1f{b}" for a, b in zip(self.texts, self.texts_b, strict=True)]

    def at(self, position: int) -> str:
        """Return where a row lies, as an error message begins."""
        return self.table.at(self.index[position])


def read_rows(table: Table, chosen: Chosen) -> Rows:
    """Read and check the chosen columns. Raises UsageError naming file and line of a bad value."""
    missing = [name for name in chosen.names() if name not in table.header]
    if missing:
        raise UsageError(
            f"{table.head} lacks {', '.join(map(repr, missing))}, found: "
            f"{', '.join(table.header)}; expected the columns of train: {', '.join(chosen.names())}"
        )
    if chosen.task == "tag":
        return _tagged(table, chosen)
    texts = _texts(table, chosen.text)
    if chosen.input is not None:
        texts = _with_input(table, texts, chosen.input)
    second = None if chosen.text_b is None else _texts(table, chosen.text_b)
    asked = chosen.task == "qa" and chosen.label is not None and second is not None
    return Rows(
        table=table,
        texts=texts,
        texts_b=second,
        labels=() if asked else _labels(table, chosen),
        index=range(len(table)),
        answers=read_answers(table, str(chosen.label), second or ()) if asked else None,
    )


def _labels(table: Table, chosen: Chosen) -> Sequence[RawLabel]:
    if chosen.flags:
        return _from_flags(table, chosen.flags)
    if chosen.label is None:
        return ()
    readers: dict[str, Callable[[Table, str], Sequence[RawLabel]]] = {
        "classify": _classes,
        "embed": _scores,
        "multi_label": _sets,
        "regress": _scores,
    }
    return readers[chosen.task](table, chosen.label)


def _tagged(table: Table, chosen: Chosen) -> Rows:
    assert chosen.label is not None
    words = [
        _list(table, i, chosen.text, value, "words")
        for i, value in enumerate(table.values(chosen.text))
    ]
    tags = [
        _list(table, i, chosen.label, value, "tags")
        for i, value in enumerate(table.values(chosen.label))
    ]
    for i, (some, others) in enumerate(zip(words, tags, strict=True)):
        if len(some) != len(others):
            raise UsageError(
                f"{table.at(i)}: {len(some)} {chosen.text} but {len(others)} {chosen.label}, "
                "expected one for each"
            )
        if not some:
            raise UsageError(f"{table.at(i)}: {chosen.text} is an empty list, expected words")
    texts = [" ".join(row) for row in words]
    _check_surrogates(table, chosen.text, texts)
    return Rows(
        table=table,
        texts=texts,
        texts_b=None,
        labels=tags,
        index=range(len(table)),
        words=words,
    )


def _list(table: Table, index: int, column: str, value: object, what: str) -> tuple[str, ...]:
    """Return a list of words, labels or tags as text. Integers are ids and so no words."""
    if not isinstance(value, list):
        raise UsageError(
            f"{table.at(index)}: {column} is {_type(value)}, expected a list of {what}"
        )
    items = []
    for item in value:
        whole = isinstance(item, int) and not isinstance(item, bool) and what != "words"
        if not (isinstance(item, str) or whole):
            raise UsageError(
                f"{table.at(index)}: {column} holds {_type(item)}, expected a list of {what}"
            )
        text = str(item) if what == "words" else str(item).strip()
        if not text or text.isspace():
            raise UsageError(f"{table.at(index)}: {column} holds an empty text among its {what}")
        items.append(text)
    return tuple(items)


def _texts(table: Table, column: str) -> list[str]:
    texts = []
    for index, value in enumerate(table.values(column)):
        if not isinstance(value, str):
            raise UsageError(f"{table.at(index)}: {column} is {_type(value)}, expected text")
        if not value or value.isspace():
            raise UsageError(f"{table.at(index)}: {column} is empty, expected text")
        texts.append(value)
    _check_surrogates(table, column, texts)
    return texts


def _with_input(table: Table, prompts: Sequence[str], column: str) -> list[str]:
    """Return each prompt with what follows it on lines of its own; it may be empty or null."""
    whole = []
    for index, value in enumerate(table.values(column)):
        if value is not None and not isinstance(value, str):
            raise UsageError(f"{table.at(index)}: {column} is {_type(value)}, expected text")
        more = (value or "").strip()
        whole.append(f"{prompts[index]}\n{more}" if more else prompts[index])
    _check_surrogates(table, column, whole)
    return whole


def _check_surrogates(table: Table, column: str, texts: Iterable[str]) -> None:
    try:
        "".join(texts).encode()
    except UnicodeEncodeError:
        broken = next(i for i, text in enumerate(texts) if any(map(_is_surrogate, text)))
        raise UsageError(
            f"{table.at(broken)}: {column} holds half of a surrogate pair, expected Unicode text"
        ) from None


def _is_surrogate(character: str) -> bool:
    return "\ud800" <= character <= "\udfff"


def _classes(table: Table, column: str) -> list[str]:
    labels = []
    for index, value in enumerate(table.values(column)):
        if isinstance(value, str):
            label = value.strip()
        elif isinstance(value, int) and not isinstance(value, bool):
            label = str(value)
        else:
            task = {list: "multi_label", float: "regress"}.get(type(value))
            raise UsageError(
                f"{table.at(index)}: {column} is {_type(value)}, "
                "expected a class id or a class name",
                f"where every row has one, set data.task={task}" if task else "",
            )
        if not label:
            raise UsageError(f"{table.at(index)}: {column} is empty, expected a class")
        labels.append(label)
    return labels


def _sets(table: Table, column: str) -> list[tuple[str, ...]]:
    """Read lists of labels; an empty list has none of them on."""
    found = []
    for index, value in enumerate(table.values(column)):
        labels = _list(table, index, column, value, "labels")
        if len(set(labels)) != len(labels):
            twice = next(label for label in labels if labels.count(label) > 1)
            raise UsageError(f"{table.at(index)}: {column} names the label {twice!r} twice")
        found.append(labels)
    return found


def _from_flags(table: Table, columns: Sequence[str]) -> list[tuple[str, ...]]:
    rows: list[list[str]] = [[] for _ in range(len(table))]
    for column in columns:
        for index, value in enumerate(table.values(column)):
            on = flag(value)
            if on is None:
                shown = repr(value) if isinstance(value, str | int | float) else _type(value)
                raise UsageError(f"{table.at(index)}: {column} is {shown}, expected 0 or 1")
            if on:
                rows[index].append(column)
    return [tuple(row) for row in rows]


def _scores(table: Table, column: str) -> list[float]:
    scores = []
    for index, value in enumerate(table.values(column)):
        score = number(value)
        if score is None or not math.isfinite(score):
            shown = repr(value) if isinstance(value, str | float) else _type(value)
            raise UsageError(f"{table.at(index)}: {column} is {shown}, expected a finite number")
        scores.append(score)
    return scores


def _type(value: object) -> str:
    kinds = {bool: "a boolean", int: "a number", float: "a number", list: "a list", str: "text"}
    return "missing (null)" if value is None else kinds.get(type(value), "an object")
