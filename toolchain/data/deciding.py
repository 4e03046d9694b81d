"""What task a table is for, by the names of its columns and the kind of values in them."""

from collections.abc import Collection, Mapping

from toolchain.data.readers import TEXT_COLUMN, Table
from toolchain.errors import UsageError
from toolchain.recipe import Columns, DataTask

__all__ = [
    "ANSWERS",
    "CONTEXTS",
    "LABELS",
    "PROMPTS",
    "QUESTIONS",
    "SCORES",
    "TAGS",
    "TOKENS",
    "decide",
    "flag",
    "flags_of",
    "number",
]

LABELS = ("label", "labels", "class", "category", "intent", "is_duplicate")
SCORES = ("score", "similarity_score", "relatedness", "similarity")
TOKENS = ("tokens", "words")
TAGS = ("tags", "ner_tags", "pos_tags", "chunk_tags")
PROMPTS = (
    ("instruction", "output"),
    ("instruction", "response"),
    ("prompt", "completion"),
    ("prompt", "response"),
    ("prompt", "answer"),
)
QUESTIONS = ("question",)
CONTEXTS = ("context",)
ANSWERS = ("answers",)
_NUMBERS_OF_ROWS = ("id", "idx", "index")


def decide(table: Table, columns: Columns, known: Mapping[str, str], *, texts: bool) -> DataTask:
    """Return the task of a table whose recipe leaves it open.

    `known` maps lower-case names to columns; `texts` says whether one of them is a usual text.
    A label decides before a score, tags or flags do. Raises UsageError where nothing decides.
    """
    asked = _asked(columns)
    if asked is not None:
        return asked
    texts = texts or columns.text is not None
    label = columns.label or next((known[name] for name in LABELS if name in known), None)
    tagged = any(n in known for n in TOKENS) and any(n in known for n in TAGS)
    if tagged and not (texts and label):
        return "tag"
    if label is not None:
        return _of_values(table, label) if label in table.header else "classify"
    if all(any(n in known for n in names) for names in (QUESTIONS, CONTEXTS, ANSWERS)):
        return "qa"
    if any(name in known for name in SCORES):
        return "regress"
    prompted = any(a in known and b in known for a, b in PROMPTS)
    if prompted or table.header == (TEXT_COLUMN,):
        return "causal_lm"
    if texts and len(flags_of(table)) > 1:
        return "multi_label"
    raise UsageError(
        f"{table.head} lacks a label column, found: {', '.join(table.header)}; "
        f"expected one of: {', '.join(LABELS)}",
        "name the columns with data.columns.text, data.columns.text_b and data.columns.label, or "
        "name the task with data.task",
    )


def _asked(columns: Columns) -> DataTask | None:
    """Return the task whose columns the recipe names."""
    if columns.tokens or columns.tags:
        return "tag"
    if columns.labels:
        return "multi_label"
    if columns.score:
        return "regress"
    return "causal_lm" if columns.prompt or columns.answer or columns.input else None


def _of_values(table: Table, label: str) -> DataTask:
    """Return the task of a label column: lists are sets of labels, fractions are scores."""
    values = table.values(label)
    if isinstance(values[0], list):
        return "multi_label"
    numbers = [number(value) for value in values]
    if all(n is not None for n in numbers) and any(n is not None and n % 1 for n in numbers):
        return "regress"
    return "classify"


def flags_of(table: Table, *, exclude: Collection[str] = ()) -> tuple[str, ...]:
    """Return the columns that hold nothing but 0 and 1, in order."""
    offered = (n for n in table.header if n not in exclude and n.lower() not in _NUMBERS_OF_ROWS)
    return tuple(name for name in offered if _is_flag(table, name))


def _is_flag(table: Table, name: str) -> bool:
    try:
        values = table.values(name)
    except UsageError:
        # A key that some objects lack is a fault only where it is read.
        return False
    return all(flag(value) is not None for value in values)


def flag(value: object) -> bool | None:
    """Return whether a value of 0 and 1 (or false and true) is on, None for any other value."""
    if isinstance(value, str):
        return {"0": False, "1": True}.get(value.strip())
    return bool(value) if isinstance(value, int) and value in (0, 1) else None


def number(value: object) -> float | None:
    """Return a value as a number, None for what is none."""
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        return None
    try:
        return float(value)
    except ValueError:
        return None
