"""Task data and raw text from disk or a hub, checked row by row before any weight is loaded."""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from toolchain.artifact import digest_of
from toolchain.data.columns import Chosen, choose
from toolchain.data.finding import Found, find, names_in
from toolchain.data.labels import Classes, reconcile
from toolchain.data.readers import Table, read_lines
from toolchain.data.rows import Rows, read_rows
from toolchain.errors import UsageError
from toolchain.recipe import Columns

__all__ = ["Split", "TaskData", "load_raw", "load_task"]

_HELD_OUT = 10


@dataclass(frozen=True)
class Split:
    """Rows of one split: B texts, for pairs B second texts, and B class ids; `file` names it."""

    texts: tuple[str, ...]
    texts_b: tuple[str, ...] | None
    labels: tuple[int, ...]
    file: str

    def __len__(self) -> int:
        """Return the number of rows."""
        return len(self.texts)


@dataclass(frozen=True, kw_only=True)
class TaskData:
    """A classification task: its splits, its classes by id, and where it all came from.

    `named` says whether the classes have names of their own rather than numbers. `digest` is the
    sha256 over the content read and the choice of columns; `notes` are decisions a user should
    know of, one sentence each.
    """

    name: str
    kind: Literal["single", "pair"]
    labels: tuple[str, ...]
    named: bool
    train: Split
    dev: Split
    test: Split | None
    digest: str
    files: tuple[Path, ...]
    notes: tuple[str, ...]


def load_task(
    source: str, *, columns: Columns, teacher_labels: Mapping[int, str] | None
) -> TaskData:
    """Load a labelled task from a folder, a file, a saved data set or a hub id.

    `teacher_labels` is the teacher's id2label, None for a teacher without a head. Raises
    UsageError, with file and line where there is one, for anything that is not a whole
    classification task.
    """
    found = find(source)
    notes = list(found.notes)
    chosen = choose(found.tables["train"], columns)
    splits = {
        name: read_rows(table, chosen)
        for name, table in found.tables.items()
        if not (name == "test" and _unlabelled(table, chosen, notes))
    }
    if "test" in splits and set(splits["test"].labels) == {"-1"}:
        notes.append(f"{found.tables['test'].file}: its labels are hidden (-1), so it is left out")
        del splits["test"]
    spelled = splits["train"].labels
    if "dev" not in splits:
        splits["train"], splits["dev"] = _hold_out(splits["train"], notes)
    listed = found.listed or found.features.get(chosen.label)
    classes = reconcile(spelled, listed, teacher_labels, where=found.tables["train"].file)
    coded = {"train": _split(splits["train"], classes)}
    _check_classes(coded["train"], classes, notes)
    coded.update({name: _split(splits[name], classes) for name in splits if name != "train"})
    _note_overlap(splits, notes)
    return TaskData(
        name=found.name,
        kind="single" if chosen.text_b is None else "pair",
        labels=classes.names,
        named=classes.named,
        train=coded["train"],
        dev=coded["dev"],
        test=coded.get("test"),
        digest=_digest(found, splits, chosen),
        files=found.files,
        notes=(*notes, *classes.notes),
    )


def load_raw(path: str) -> tuple[tuple[str, ...], str]:
    """Return the texts of unlabelled text files, one per line that is not blank, and a digest.

    `path` is a .txt or .txt.gz file or a folder of them. Raises UsageError.
    """
    root = Path(path)
    if root.is_dir():
        files = sorted(file for file in root.iterdir() if _is_text(file))
        if not files:
            raise UsageError(f"{root}: no .txt or .txt.gz file, found: {names_in(root)}")
    elif not root.exists():
        raise UsageError(f"{root}: no such file or folder")
    elif not _is_text(root):
        raise UsageError(f"{root}: expected raw text in a .txt or .txt.gz file, one text per line")
    else:
        files = [root]
    texts: list[str] = []
    digests = []
    for file in files:
        lines, digest = read_lines(file)
        texts += [line for line in lines if line.strip()]
        digests.append(digest)
    if not texts:
        raise UsageError(f"{root}: no text, every line is blank")
    return tuple(texts), digest_of(digests)


def _is_text(path: Path) -> bool:
    return path.is_file() and path.name.lower().endswith((".txt", ".txt.gz"))


def _unlabelled(table: Table, chosen: Chosen, notes: list[str]) -> bool:
    if chosen.label in table.header:
        return False
    notes.append(f"{table.file} has no column {chosen.label!r}, so it is left out")
    return True


def _hold_out(rows: Rows, notes: list[str]) -> tuple[Rows, Rows]:
    """Split off a tenth by a hash of the texts, so that equal texts stay on one side."""
    dev: list[int] = []
    train: list[int] = []
    for index, key in enumerate(rows.keys()):
        value = int.from_bytes(hashlib.sha256(key.encode()).digest()[:8], "big")
        (train if value % _HELD_OUT else dev).append(index)
    if not train or not dev:
        raise UsageError(
            f"{rows.table.file}: too few rows ({len(rows.texts)}) to hold out a dev split",
            "give a folder with a train and a dev file",
        )
    notes.append(
        f"{rows.table.file}: no dev split, so {len(dev)} of {len(rows.texts)} rows (a tenth, "
        "chosen by a hash of the text) are held out"
    )
    return rows.take(train), rows.take(dev)


def _split(rows: Rows, classes: Classes) -> Split:
    codes = {label: classes.code(label) for label in set(rows.labels)}
    if None in codes.values():
        position = next(i for i, label in enumerate(rows.labels) if codes[label] is None)
        raise classes.unknown(rows.table.at(rows.index[position]), rows.labels[position])
    ids = {label: code for label, code in codes.items() if code is not None}
    return Split(
        texts=tuple(rows.texts),
        texts_b=None if rows.texts_b is None else tuple(rows.texts_b),
        labels=tuple([ids[label] for label in rows.labels]),
        file=rows.table.file,
    )


def _check_classes(train: Split, classes: Classes, notes: list[str]) -> None:
    present = set(train.labels)
    if len(present) == 1:
        raise UsageError(
            f"{train.file}: every row of train has the class {classes.names[present.pop()]!r}, "
            "expected at least two classes"
        )
    absent = [name for i, name in enumerate(classes.names) if i not in present]
    if absent:
        notes.append(
            f"{train.file}: no row of train has {len(absent)} of {len(classes.names)} classes: "
            f"{', '.join(absent[:10])}{', ...' * (len(absent) > 10)}"
        )


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
        name: digest_of([list(rows.texts), list(rows.texts_b or ()), list(rows.labels)])
        for name, rows in splits.items()
    }
    return digest_of([content, [chosen.text, chosen.text_b, chosen.label]])
