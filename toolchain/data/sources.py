"""Task data and raw text from disk or a hub, checked row by row before any weight is loaded."""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from toolchain.artifact import digest_of
from toolchain.data.asking import Answers
from toolchain.data.coding import Coding, Label, coding_of
from toolchain.data.columns import Chosen, choose
from toolchain.data.finding import Found, find, names_in, with_listed
from toolchain.data.readers import Table, is_text, read_texts
from toolchain.data.rows import Rows, read_rows
from toolchain.errors import UsageError
from toolchain.recipe import Columns, DataTask
from toolchain.spec import LANGUAGE, TOKENS

__all__ = ["Label", "Split", "TaskData", "load_raw", "load_task", "texts_in"]

# One row in ten is held out, one in a hundred of raw text from this many lines on.
_HELD_OUT = 10
_HELD_OUT_OF_MANY = 100
_MANY = 10_000


@dataclass(frozen=True)
class Split:
    """Rows of one split: B texts, for pairs B second texts, and B labels; `file` names it.

    `labels` are class ids, scores, tuples of 0 and 1 (one per label) or tuples of tag ids (one per
    word of `words`), by the task; a language model's rows have none, and their second texts are
    answers to the first ones. Texts to be embedded stand one by one: of R pairs the first ones,
    then the second ones, with R scores of how alike they are, or with none. Questions have their
    contexts for second texts, and `answers` in them.
    """

    texts: tuple[str, ...]
    texts_b: tuple[str, ...] | None
    labels: tuple[Label, ...]
    file: str
    words: tuple[tuple[str, ...], ...] | None = None
    answers: tuple[Answers, ...] | None = None

    def __len__(self) -> int:
        """Return the number of rows."""
        return len(self.texts)


@dataclass(frozen=True, kw_only=True)
class TaskData:
    """A task: its splits, what the outputs of a model for it are called, where it came from.

    `labels` has one name per output: classes, labels or tags by id, the score's column, none for a
    language model or for embeddings. `named` says whether they have names of their own rather than
    numbers. `unseen` are tags that only dev or test has; their ids follow those of `labels`.
    `digest` is the sha256 over the content read and the choice of columns; `notes` are decisions a
    user should know of, one sentence each.
    """

    name: str
    task: DataTask = "classify"
    kind: Literal["single", "pair"]
    labels: tuple[str, ...]
    named: bool
    unseen: tuple[str, ...] = ()
    train: Split
    dev: Split
    test: Split | None
    digest: str
    files: tuple[Path, ...]
    notes: tuple[str, ...]

    @property
    def of_tokens(self) -> bool:
        """Whether a model gives figures for every token, not once per row."""
        return self.task in TOKENS

    @property
    def unanswered(self) -> bool:
        """Whether some questions have no answer, so that a model has to learn to give none."""
        return self.train.answers is not None and not all(self.train.answers)

    @property
    def of_language(self) -> bool:
        """Whether a model's outcomes are the vocabulary, so that no label is needed."""
        return self.task in LANGUAGE


def load_task(
    source: str,
    *,
    columns: Columns,
    teacher_labels: Mapping[int, str] | None,
    task: Literal["auto"] | DataTask = "auto",
) -> TaskData:
    """Load a task from a folder, a file, a saved data set or a hub id.

    `teacher_labels` is the teacher's id2label, None for a teacher without a head; `task` says what
    the rows are for where their columns leave it open. Raises UsageError, with file and line where
    there is one, for anything that is not a whole task.
    """
    found = find(source, task)
    notes = list(found.notes)
    chosen = choose(found.tables["train"], columns, task)
    found = with_listed(found, chosen.task)
    splits = {
        name: read_rows(table, chosen)
        for name, table in found.tables.items()
        if not (name == "test" and _unlabelled(table, chosen, notes))
    }
    if "test" in splits and set(splits["test"].labels) in ({"-1"}, {-1.0}):
        notes.append(f"{found.tables['test'].file}: its labels are hidden (-1), so it is left out")
        del splits["test"]
    spelled = splits["train"].labels
    if "dev" not in splits:
        splits["train"], splits["dev"] = _hold_out(splits["train"], chosen, notes)
    listed = found.listed or (found.features.get(chosen.label) if chosen.label else None)
    coding = coding_of(chosen, splits, spelled, listed, teacher_labels)
    coded = {"train": _split(splits["train"], coding, chosen.task)}
    _check_train(coded["train"], coding, chosen, notes)
    coded |= {n: _split(splits[n], coding, chosen.task) for n in splits if n != "train"}
    _note_overlap(splits, notes)
    return TaskData(
        name=found.name,
        task=chosen.task,
        # Of two texts each has an embedding of its own.
        kind="single" if chosen.text_b is None or chosen.task == "embed" else "pair",
        labels=coding.names,
        named=coding.named,
        unseen=coding.unseen,
        train=coded["train"],
        dev=coded["dev"],
        test=coded.get("test"),
        digest=_digest(found, splits, chosen),
        files=found.files,
        notes=(*notes, *coding.notes),
    )


def load_raw(path: str) -> tuple[tuple[str, ...], str]:
    """Return the texts of unlabelled text files, one per line that is not blank, and a digest.

    `path` is a .txt or .txt.gz file or a folder of them. Raises UsageError.
    """
    root = Path(path)
    if root.is_dir():
        files = texts_in(root)
    elif not root.exists():
        raise UsageError(f"{root}: no such file or folder")
    elif not is_text(root):
        raise UsageError(f"{root}: expected raw text in a .txt or .txt.gz file, one text per line")
    else:
        files = [root]
    table = read_texts(str(root), files)
    return tuple(map(str, table.values("text"))), str(table.digest)


def texts_in(folder: Path) -> list[Path]:
    """Return the files of raw text in a folder, by name. Raises UsageError where there are none."""
    files = sorted(file for file in folder.iterdir() if file.is_file() and is_text(file))
    if not files:
        raise UsageError(f"{folder}: no .txt or .txt.gz file, found: {names_in(folder)}")
    return files


def _unlabelled(table: Table, chosen: Chosen, notes: list[str]) -> bool:
    wanted = chosen.flags or ((chosen.label,) if chosen.label is not None else ())
    absent = [name for name in wanted if name not in table.header]
    if not absent:
        return False
    notes.append(f"{table.file} has no column {absent[0]!r}, so it is left out")
    return True


def _hold_out(rows: Rows, chosen: Chosen, notes: list[str]) -> tuple[Rows, Rows]:
    """Split off a part by a hash of the texts, so that equal texts stay on one side."""
    many = chosen.task in LANGUAGE and len(rows.texts) >= _MANY
    every, part = (_HELD_OUT_OF_MANY, "hundredth") if many else (_HELD_OUT, "tenth")
    dev: list[int] = []
    train: list[int] = []
    # Questions about one text stay on one side, too.
    keys = rows.texts_b if chosen.task == "qa" and rows.texts_b else rows.keys()
    for index, key in enumerate(keys):
        value = int.from_bytes(hashlib.sha256(key.encode()).digest()[:8], "big")
        (train if value % every else dev).append(index)
    if not train or not dev:
        raise UsageError(
            f"{rows.table.file}: too few rows ({len(rows.texts)}) to hold out a dev split",
            "give a folder with a train and a dev file",
        )
    notes.append(
        f"{rows.table.file}: no dev split, so {len(dev)} of {len(rows.texts)} rows (a {part}, "
        "chosen by a hash of the text) are held out"
    )
    return rows.take(train), rows.take(dev)


def _split(rows: Rows, coding: Coding, task: DataTask) -> Split:
    texts, texts_b = tuple(rows.texts), None if rows.texts_b is None else tuple(rows.texts_b)
    if task == "embed":
        texts, texts_b = (*texts, *(texts_b or ())), None
    return Split(
        texts=texts,
        texts_b=texts_b,
        labels=coding.labels(rows),
        file=rows.table.file,
        words=None if rows.words is None else tuple(rows.words),
        answers=None if rows.answers is None else tuple(rows.answers),
    )


def _check_train(train: Split, coding: Coding, chosen: Chosen, notes: list[str]) -> None:
    """Refuse a train split that teaches nothing; note the classes it has no row of."""
    if chosen.task in LANGUAGE or chosen.task == "embed":
        return
    if chosen.task == "qa":
        if not any(train.answers or ()):
            raise UsageError(f"{train.file}: no question of train has an answer, expected some")
        return
    if len(set(train.labels)) == 1 and chosen.task != "tag":
        (only,) = set(train.labels)
        said = f"the class {coding.names[only]!r}" if isinstance(only, int) else f"{only}"
        if chosen.task == "multi_label":
            said = "the same labels"
        raise UsageError(
            f"{train.file}: every row of train has {said}, expected at least two "
            f"{'scores' if chosen.task == 'regress' else 'classes'}"
        )
    if chosen.task == "regress":
        return
    present = _ids(train, chosen)
    absent = [name for i, name in enumerate(coding.names) if i not in present]
    if absent:
        what = {"multi_label": "labels", "tag": "tags"}.get(chosen.task, "classes")
        notes.append(
            f"{train.file}: no row of train has {len(absent)} of {len(coding.names)} {what}: "
            f"{', '.join(absent[:10])}{', ...' * (len(absent) > 10)}"
        )


def _ids(train: Split, chosen: Chosen) -> set[int]:
    """Return the ids of classes, labels or tags that occur."""
    if chosen.task == "tag":
        return {i for label in train.labels if isinstance(label, tuple) for i in label}
    if chosen.task == "multi_label":
        rows = (label for label in set(train.labels) if isinstance(label, tuple))
        return {i for label in rows for i, on in enumerate(label) if on}
    return {label for label in train.labels if isinstance(label, int)}


def _note_overlap(splits: Mapping[str, Rows], notes: list[str]) -> None:
    train = set(splits["train"].keys())
    for name in ("dev", "test"):
        if name in splits:
            keys = splits[name].keys()
            shared = sum(key in train for key in keys)
            if shared:
                notes.append(f"{shared} of {len(keys)} rows of {name} also occur in train")


def _digest(found: Found, splits: Mapping[str, Rows], chosen: Chosen) -> str:
    content = dict(found.digests) or {
        name: digest_of(
            [
                list(rows.texts),
                list(rows.texts_b or ()),
                list(rows.labels),
                list(rows.words or ()),
                *([list(rows.answers)] if rows.answers is not None else []),
            ]
        )
        for name, rows in splits.items()
    }
    return digest_of([content, list(chosen.names()), chosen.task])
