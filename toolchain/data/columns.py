"""Which columns hold the text and the label: the usual names, or those the recipe gives."""

from collections.abc import Sequence
from dataclasses import dataclass

from toolchain.data.readers import Table
from toolchain.errors import UsageError
from toolchain.recipe import Columns
from toolchain.registry import nearest

__all__ = ["Chosen", "choose"]

_PAIRS = (
    ("text_a", "text_b"),
    ("text1", "text2"),
    ("sentence1", "sentence2"),
    ("sentence_a", "sentence_b"),
    ("question1", "question2"),
    ("premise", "hypothesis"),
    ("question", "sentence"),
)
_SINGLES = ("text", "sentence", "utterance", "question", "content", "review")
_LABELS = ("label", "labels", "class", "category", "intent", "is_duplicate")
# Tasks known by their columns: what must stand in the header, and the task's name.
_OTHER_TASKS = (
    (("tokens", "tags"), "tagging"),
    (("tokens", "ner_tags"), "tagging"),
    (("context", "answers"), "extractive question answering"),
)
_SCORES = ("score", "similarity_score", "relatedness", "similarity")


@dataclass(frozen=True)
class Chosen:
    """The columns that are read; `text_b` only for pairs."""

    text: str
    text_b: str | None
    label: str

    def names(self) -> tuple[str, ...]:
        """Return the names of the columns read, in order."""
        return tuple(name for name in (self.text, self.text_b, self.label) if name is not None)


def choose(table: Table, columns: Columns) -> Chosen:
    """Return the columns of `table` to read: those of `columns`, else the usual names.

    Raises UsageError where there are none, where several would do, or where the columns are those
    of a task that is not classification.
    """
    known = {name.lower(): name for name in reversed(table.header)}
    label = _label(table, columns, known)
    text, text_b = _texts(table, columns, known)
    chosen = Chosen(text, text_b, label)
    names = chosen.names()
    if len(set(names)) != len(names):
        raise UsageError(f"{table.file}: one column cannot be two things: {', '.join(names)}")
    return chosen


def _given(table: Table, name: str, role: str) -> str:
    if name in table.header:
        return name
    guess = nearest(name, table.header)
    raise UsageError(
        f"{table.head} has no column {name!r}, which columns.{role} names, "
        f"found: {', '.join(table.header)}",
        f"did you mean {guess!r}?" if guess else "name one of the columns found",
    )


def _label(table: Table, columns: Columns, known: dict[str, str]) -> str:
    if columns.label is not None:
        return _given(table, columns.label, "label")
    for needed, task in _OTHER_TASKS:
        if all(name in known for name in needed):
            raise _not_supported(table, task, needed)
    for name in _LABELS:
        if name in known:
            return known[name]
    for name in _SCORES:
        if name in known:
            raise _not_supported(table, "regression", (known[name],))
    raise _wrong_header(table, "a label column", _LABELS)


def _texts(table: Table, columns: Columns, known: dict[str, str]) -> tuple[str, str | None]:
    if columns.text is not None:
        second = columns.text_b
        return (
            _given(table, columns.text, "text"),
            None if second is None else _given(table, second, "text_b"),
        )
    singles = [known[name] for name in _SINGLES if name in known]
    if columns.text_b is not None:
        first = singles or [known[a] for a, _ in _PAIRS if a in known]
        if not first:
            raise _wrong_header(table, "a text column", _SINGLES)
        return first[0], _given(table, columns.text_b, "text_b")
    pairs = [(known[a], known[b]) for a, b in _PAIRS if a in known and b in known]
    # `question` and `sentence` are singles of their own, so a pair of them is not a rival.
    rivals = [(name,) for name in singles if not any(name in pair for pair in pairs)]
    candidates = [*pairs, *rivals]
    if not candidates:
        raise _wrong_header(table, "a text column", (*_SINGLES, *map(" + ".join, _PAIRS)))
    if len(candidates) > 1:
        offers = " or ".join(" + ".join(names) for names in candidates)
        raise UsageError(
            f"{table.head} leaves open which column holds the text: {offers}",
            "name it with columns.text (and columns.text_b for pairs)",
        )
    found = candidates[0]
    return found[0], found[1] if len(found) == 2 else None


def _wrong_header(table: Table, missing: str, usual: Sequence[str]) -> UsageError:
    return UsageError(
        f"{table.head} lacks {missing}, found: {', '.join(table.header)}; "
        f"expected one of: {', '.join(usual)}",
        "name the columns with columns.text, columns.text_b and columns.label",
    )


def _not_supported(table: Table, task: str, found: Sequence[str]) -> UsageError:
    plural = "s" * (len(found) > 1)
    return UsageError(
        f"{table.file}: column{plural} {' and '.join(found)} without a label column: "
        f"{task} is not supported yet, expected single-text or pair classification",
        "where it is a classification task, name its columns with columns.text and columns.label",
    )
