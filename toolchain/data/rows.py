"""Rows of a table as text and labels, each value checked and, when bad, named by file and line."""

from collections.abc import Sequence
from dataclasses import dataclass

from toolchain.data.columns import Chosen
from toolchain.data.readers import Table
from toolchain.errors import UsageError

__all__ = ["Rows", "read_rows"]


@dataclass(frozen=True, kw_only=True)
class Rows:
    """Rows of one split with labels as the data spells them; `index` is their place in `table`."""

    table: Table
    texts: Sequence[str]
    texts_b: Sequence[str] | None
    labels: Sequence[str]
    index: Sequence[int]

    def take(self, chosen: Sequence[int]) -> "Rows":
        """Return some of the rows."""
        second = self.texts_b
        return Rows(
            table=self.table,
            texts=[self.texts[i] for i in chosen],
            texts_b=None if second is None else [second[i] for i in chosen],
            labels=[self.labels[i] for i in chosen],
            index=[self.index[i] for i in chosen],
        )

    def keys(self) -> list[str]:
        """Return one string per row that stands for its texts."""
        if self.texts_b is None:
            return list(self.texts)
        return [f"{a}\x1f{b}" for a, b in zip(self.texts, self.texts_b, strict=True)]


def read_rows(table: Table, chosen: Chosen) -> Rows:
    """Read and check the chosen columns. Raises UsageError naming file and line of a bad value."""
    missing = [name for name in chosen.names() if name not in table.header]
    if missing:
        raise UsageError(
            f"{table.head} lacks {', '.join(map(repr, missing))}, found: "
            f"{', '.join(table.header)}; expected the columns of train: {', '.join(chosen.names())}"
        )
    return Rows(
        table=table,
        texts=_texts(table, chosen.text),
        texts_b=None if chosen.text_b is None else _texts(table, chosen.text_b),
        labels=_labels(table, chosen.label),
        index=range(len(table)),
    )


def _texts(table: Table, column: str) -> list[str]:
    texts = []
    for index, value in enumerate(table.values(column)):
        if not isinstance(value, str):
            raise UsageError(f"{table.at(index)}: {column} is {_type(value)}, expected text")
        if not value or value.isspace():
            raise UsageError(f"{table.at(index)}: {column} is empty, expected text")
        texts.append(value)
    try:
        "".join(texts).encode()
    except UnicodeEncodeError:
        broken = next(i for i, text in enumerate(texts) if any(map(_is_surrogate, text)))
        raise UsageError(
            f"{table.at(broken)}: {column} holds half of a surrogate pair, expected Unicode text"
        ) from None
    return texts


def _is_surrogate(character: str) -> bool:
    return "\ud800" <= character <= "\udfff"


def _labels(table: Table, column: str) -> list[str]:
    labels = []
    for index, value in enumerate(table.values(column)):
        if isinstance(value, str):
            label = value.strip()
        elif isinstance(value, int) and not isinstance(value, bool):
            label = str(value)
        else:
            task = {list: "multi-label", float: "regression"}.get(type(value))
            unsupported = f" ({task} is not supported yet)" if task else ""
            raise UsageError(
                f"{table.at(index)}: {column} is {_type(value)}, "
                f"expected a class id or a class name{unsupported}"
            )
        if not label:
            raise UsageError(f"{table.at(index)}: {column} is empty, expected a class")
        labels.append(label)
    return labels


def _type(value: object) -> str:
    kinds = {bool: "a boolean", int: "a number", float: "a number", list: "a list", str: "text"}
    return "missing (null)" if value is None else kinds.get(type(value), "an object")
