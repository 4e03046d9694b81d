"""Which columns hold the text and what is to be learned: the usual names, or those of the recipe.

The columns also say what the task is, unless the recipe does.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from toolchain.data.deciding import (
    ANSWERS,
    CONTEXTS,
    LABELS,
    PROMPTS,
    QUESTIONS,
    SCORES,
    TAGS,
    TOKENS,
    decide,
    flags_of,
)
from toolchain.data.readers import Table
from toolchain.errors import UsageError
from toolchain.recipe import Columns, DataTask
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
_INPUTS = ("input",)
# Which of the recipe's names a task reads; any other one would be ignored in silence.
_TEXTS = ("text", "text_b")
_ROLES: Mapping[DataTask, tuple[str, ...]] = {
    "classify": (*_TEXTS, "label"),
    "multi_label": (*_TEXTS, "label", "labels"),
    "regress": (*_TEXTS, "label", "score"),
    "tag": ("tokens", "tags"),
    "qa": (*_TEXTS, "answer"),
    "causal_lm": ("text", "prompt", "input", "answer"),
    "mask_lm": _TEXTS,
    "embed": (*_TEXTS, "score"),
}

Known = Mapping[str, str]
"""Names of columns by their lower-case spelling."""


@dataclass(frozen=True)
class Chosen:
    """The columns that are read, for a task.

    `text_b` only for pairs (of texts, prompt and answer, question and context); `label` holds
    class, list of labels, score, tags or answers, None for a language model, for texts to be
    embedded that are not scored, or where `flags`, columns of 0 and 1, say it; `input` is what
    follows the prompt.
    """

    text: str
    text_b: str | None
    label: str | None
    task: DataTask = "classify"
    flags: tuple[str, ...] = ()
    input: str | None = None

    def names(self) -> tuple[str, ...]:
        """Return the names of the columns read, in order."""
        single = (self.text, self.input, self.text_b, self.label)
        return (*(name for name in single if name is not None), *self.flags)


def choose(table: Table, columns: Columns, task: Literal["auto"] | DataTask = "auto") -> Chosen:
    """Return the task and the columns of `table` to read: those of `columns`, else the usual ones.

    Raises UsageError where there are none, where several would do, where the columns are those of
    a task that is not supported, or where the recipe names a column that the task does not read.
    """
    known = {name.lower(): name for name in reversed(table.header)}
    texts = _candidates(known)
    decided = decide(table, columns, known, texts=bool(texts)) if task == "auto" else task
    for role, name in columns.model_dump(exclude_none=True).items():
        if role not in _ROLES[decided]:
            raise UsageError(
                f"data.columns.{role} names {name!r}, but the task {decided} has no such column, "
                f"expected {' or '.join(f'data.columns.{role}' for role in _ROLES[decided])}",
                "set data.task to the task that is meant" if task == "auto" else "drop it",
            )
    chosen = _chosen(table, columns, known, decided)
    names = chosen.names()
    if len(set(names)) != len(names):
        raise UsageError(f"{table.file}: one column cannot be two things: {', '.join(names)}")
    return chosen


def _chosen(table: Table, columns: Columns, known: Known, task: DataTask) -> Chosen:
    match task:
        case "tag":
            tokens = _one(table, columns.tokens, known, "tokens", TOKENS)
            tags = _one(table, columns.tags, known, "tags", TAGS)
            return Chosen(tokens, None, tags, task)
        case "qa":
            question = _one(table, columns.text, known, "question", QUESTIONS)
            context = _one(table, columns.text_b, known, "context", CONTEXTS)
            return Chosen(
                question, context, _one(table, columns.answer, known, "answers", ANSWERS), task
            )
        case "causal_lm":
            return _language(table, columns, known)
        case "mask_lm":
            return Chosen(*_texts(table, columns, known), None, task)
        case "embed":
            first, second = _texts(table, columns, known)
            return Chosen(first, second, _similarity(table, columns, known, second), task)
        case "regress":
            if columns.score is None and columns.label is not None:
                label = _given(table, columns.label, "label")
            else:
                label = _one(table, columns.score, known, "score", (*SCORES, *LABELS))
        case "multi_label":
            flags = _flags(table, columns, known)
            if flags:
                return Chosen(*_texts(table, columns, known), None, task, flags)
            label = _one(table, columns.label, known, "label", LABELS)
        case "classify":
            label = _one(table, columns.label, known, "label", LABELS)
    return Chosen(*_texts(table, columns, known), label, task)


def _similarity(table: Table, columns: Columns, known: Known, second: str | None) -> str | None:
    """Return the column that says how alike two texts are, None where there is none."""
    if columns.score is not None:
        if second is None:
            raise UsageError(
                f"{table.file}: data.columns.score names {columns.score!r}, but a row is one text: "
                "of two texts a score says how alike they are",
                "name the second text with data.columns.text_b, or drop data.columns.score",
            )
        return _given(table, columns.score, "score")
    usual = (known[name] for name in SCORES if name in known)
    return None if second is None else next(usual, None)


def _given(table: Table, name: str, role: str) -> str:
    if name in table.header:
        return name
    guess = nearest(name, table.header)
    raise UsageError(
        f"{table.head} has no column {name!r}, which data.columns.{role} names, "
        f"found: {', '.join(table.header)}",
        f"did you mean {guess!r}?" if guess else "name one of the columns found",
    )


def _one(table: Table, given: str | None, known: Known, role: str, usual: Sequence[str]) -> str:
    if given is not None:
        return _given(table, given, role)
    for name in usual:
        if name in known:
            return known[name]
    raise _wrong_header(table, f"a {role} column", usual)


def _flags(table: Table, columns: Columns, known: Known) -> tuple[str, ...]:
    """Return the columns of 0 and 1: those given, or all but the texts where none is a label."""
    if columns.labels is not None:
        return tuple(_given(table, name, "labels") for name in columns.labels)
    if columns.label is not None or any(name in known for name in LABELS):
        return ()
    return flags_of(table, exclude=[name for pair in _candidates(known) for name in pair])


def _language(table: Table, columns: Columns, known: Known) -> Chosen:
    """Return prompt and answer where there are such columns, else the text alone."""
    usual = next(((a, b) for a, b in PROMPTS if a in known and b in known), None)
    if columns.text is not None:
        return Chosen(_given(table, columns.text, "text"), None, None, "causal_lm")
    if usual is None and columns.prompt is None and columns.answer is None:
        first, second = _texts(table, columns, known)
        if second is not None:
            raise _wrong_header(table, "a text or a prompt column", (*_SINGLES, PROMPTS[0][0]))
        return Chosen(first, None, None, "causal_lm")
    prompts, answers = ((usual[0],), (usual[1],)) if usual else zip(*PROMPTS, strict=True)
    prompt = _one(table, columns.prompt, known, "prompt", prompts)
    answer = _one(table, columns.answer, known, "answer", answers)
    if columns.input is not None:
        more: str | None = _given(table, columns.input, "input")
    else:
        more = next((known[name] for name in _INPUTS if name in known), None)
    return Chosen(prompt, answer, None, "causal_lm", (), None if more == prompt else more)


def _candidates(known: Known) -> list[tuple[str, ...]]:
    """Return the columns that may hold the text, pairs first."""
    singles = [known[name] for name in _SINGLES if name in known]
    pairs = [(known[a], known[b]) for a, b in _PAIRS if a in known and b in known]
    # `question` and `sentence` are singles of their own, so a pair of them is not a rival.
    rivals = [(name,) for name in singles if not any(name in pair for pair in pairs)]
    return [*pairs, *rivals]


def _texts(table: Table, columns: Columns, known: Known) -> tuple[str, str | None]:
    if columns.text is not None:
        second = columns.text_b
        return (
            _given(table, columns.text, "text"),
            None if second is None else _given(table, second, "text_b"),
        )
    if columns.text_b is not None:
        singles = [known[name] for name in _SINGLES if name in known]
        first = singles or [known[a] for a, _ in _PAIRS if a in known]
        if not first:
            raise _wrong_header(table, "a text column", _SINGLES)
        return first[0], _given(table, columns.text_b, "text_b")
    candidates = _candidates(known)
    if not candidates:
        raise _wrong_header(table, "a text column", (*_SINGLES, *map(" + ".join, _PAIRS)))
    if len(candidates) > 1:
        offers = " or ".join(" + ".join(names) for names in candidates)
        raise UsageError(
            f"{table.head} leaves open which column holds the text: {offers}",
            "name it with data.columns.text (and data.columns.text_b for pairs)",
        )
    found = candidates[0]
    return found[0], found[1] if len(found) == 2 else None


def _wrong_header(table: Table, missing: str, usual: Sequence[str]) -> UsageError:
    return UsageError(
        f"{table.head} lacks {missing}, found: {', '.join(table.header)}; "
        f"expected one of: {', '.join(usual)}",
        "name the columns with data.columns.text and those beside it: "
        f"{', '.join(Columns.model_fields)}",
    )
