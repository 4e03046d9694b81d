"""Labels as the data spells them to what a loss reads: ids, scores, 0 and 1 per label, tag ids."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from toolchain.data.columns import Chosen
from toolchain.data.labels import Classes, Listed, reconcile
from toolchain.data.rows import RawLabel, Rows
from toolchain.errors import UsageError
from toolchain.spec import LANGUAGE

__all__ = ["Coding", "Label", "coding_of"]

Label = int | float | tuple[int, ...]
"""A class id, a score, 0 or 1 per label, or a tag id per word."""


@dataclass(frozen=True, kw_only=True)
class Coding:
    """What the outputs of a model are called, and how a row's label is written in numbers.

    `names` has one entry per output. `unseen` are tags that only dev or test has: their ids go on
    after those of `names`, so that no prediction equals them. `classes` is None where labels are
    numbers, or where there are none.
    """

    names: tuple[str, ...]
    named: bool
    classes: Classes | None = None
    unseen: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()

    def labels(self, rows: Rows) -> tuple[Label, ...]:
        """Return the label of every row. Raises UsageError naming file and line of a bad one."""
        if self.classes is None:
            return tuple(label for label in rows.labels if isinstance(label, float))
        codes = self._codes(rows)
        return tuple([_coded(label, codes, len(self.names), rows) for label in rows.labels])

    def _codes(self, rows: Rows) -> dict[str, int]:
        assert self.classes is not None
        codes = {name: len(self.names) + i for i, name in enumerate(self.unseen)}
        # In the order of the rows, so that the first bad one is named.
        for name in dict.fromkeys(name for label in rows.labels for name in _named(label)):
            if name in codes:
                continue
            code = self.classes.code(name)
            if code is None:
                at = next(i for i, label in enumerate(rows.labels) if name in _named(label))
                raise self.classes.unknown(rows.at(at), name)
            codes[name] = code
        return codes


def coding_of(
    chosen: Chosen,
    splits: Mapping[str, Rows],
    spelled: Sequence[RawLabel],
    listed: Listed | None,
    teacher: Mapping[int, str] | None,
) -> Coding:
    """Decide what the outputs of a model for this task are.

    `spelled` are the labels of all rows that may name a class; `teacher` is its id2label. Raises
    UsageError where data and teacher cannot be reconciled.
    """
    where = splits["train"].table.file
    if chosen.task in LANGUAGE or chosen.task == "qa":
        return Coding(names=(), named=False)
    if chosen.task == "embed":
        # What names a column of scores is no output of a model.
        return Coding(names=(), named=False)
    if chosen.task == "regress":
        assert chosen.label is not None
        if teacher is not None and len(teacher) != 1:
            raise UsageError(
                f"{where}: {chosen.label} is a score, but the teacher decides between "
                f"{len(teacher)} classes",
                "use a teacher with one output or a bare encoder, or set data.task=classify where "
                "the numbers are classes",
            )
        return Coding(names=(chosen.label,), named=True)
    found = {name for label in spelled for name in _named(label)}
    if chosen.flags and listed is None:
        listed = Listed(chosen.flags, f"{where}:1")
        found |= set(chosen.flags)
    if chosen.task == "tag" and listed is None:
        listed = _tags_of(found, where)
    if not found:
        raise UsageError(f"{where}: no row of train has any label, expected some")
    classes = reconcile(found, listed, teacher, where=where)
    unseen = _unseen(splits, classes) if chosen.task == "tag" else ()
    notes = list(classes.notes)
    if unseen:
        notes.append(
            f"{len(unseen)} tags of dev or test are none of train's, so every prediction of them "
            f"counts as an error: {', '.join(unseen[:10])}{', ...' * (len(unseen) > 10)}"
        )
    return Coding(
        names=classes.names,
        named=classes.named,
        classes=classes,
        unseen=unseen,
        notes=tuple(notes),
    )


def _tags_of(found: set[str], where: str) -> Listed | None:
    """Return tags in a fixed order with O first; None for ids, which have an order."""
    names = sorted(found, key=lambda name: (name != "O", name))
    listed = Listed(tuple(names), where)
    return None if listed.digits else listed


def _unseen(splits: Mapping[str, Rows], classes: Classes) -> tuple[str, ...]:
    """Return the names that only dev or test has; one that train has too is refused there."""
    names: dict[bool, set[str]] = {True: set(), False: set()}
    for split, rows in splits.items():
        names[split == "train"] |= {name for label in rows.labels for name in _named(label)}
    unknown = (name for name in names[False] - names[True] if classes.code(name) is None)
    return tuple(sorted(unknown))


def _named(label: RawLabel) -> tuple[str, ...]:
    if isinstance(label, str):
        return (label,)
    return label if isinstance(label, tuple) else ()


def _coded(label: RawLabel, codes: Mapping[str, int], width: int, rows: Rows) -> Label:
    if isinstance(label, str):
        return codes[label]
    assert isinstance(label, tuple)
    ids = [codes[name] for name in label]
    if rows.words is not None:
        return tuple(ids)
    on = set(ids)
    return tuple([int(i in on) for i in range(width)])
