"""What a label of the data means: which class id it is, and what the class is called.

Three sources may name the classes: `labels.txt` beside the data (line number = id), the teacher's
`id2label`, and the data itself. Integers are class ids, strings are names. A teacher's ids are
fixed by its head, so they win over every other order; what cannot be reconciled is refused.
"""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from toolchain.data.readers import read_lines
from toolchain.errors import UsageError
from toolchain.registry import nearest

__all__ = ["Classes", "Listed", "listed_in", "reconcile"]

_INTEGER = re.compile(r"-?[0-9]{1,18}")
_GENERIC = re.compile(r"(?i:label)[_ ]?[0-9]+")
_SHOWN = 12


@dataclass(frozen=True)
class Listed:
    """Class names in order of their ids, as `source` lists them."""

    names: tuple[str, ...]
    source: str

    @property
    def counted(self) -> bool:
        """Whether the names only count from 0, so that they are the ids and name nothing."""
        return list(self.names) == [str(i) for i in range(len(self.names))]

    @property
    def digits(self) -> bool:
        """Whether every name is an integer (such as stars from 1 to 5)."""
        return all(_INTEGER.fullmatch(name) for name in self.names)

    @property
    def generic(self) -> bool:
        """Whether the names say nothing: LABEL_0, LABEL_1, or 0, 1."""
        return self.counted or all(_GENERIC.fullmatch(name) for name in self.names)

    def __str__(self) -> str:
        """Return the source and its names, as an error message prints them."""
        return f"{self.source} ({_several(self.names)})"


@dataclass(frozen=True, kw_only=True)
class Classes:
    """The classes of a task: `codes` maps a label as the data spells it to its class id.

    `authority` says who listed the labels of `codes`; `rival`, where not empty, what the data had
    instead.
    """

    names: tuple[str, ...]
    named: bool
    codes: Mapping[str, int]
    authority: str
    rival: str = ""
    notes: tuple[str, ...] = ()

    def code(self, label: str) -> int | None:
        """Return the class id of a label, None for an unknown one.

        A label is found exactly, else as an integer, else regardless of case if that is
        unambiguous.
        """
        if label in self.codes:
            return self.codes[label]
        if _INTEGER.fullmatch(label):
            return self.codes.get(str(int(label)))
        return _by_case(label, self.codes)

    def unknown(self, at: str, label: str) -> UsageError:
        """Return the error for a label that is no class, found at `at`."""
        known = _several(self.codes)
        rival = f"; {self.rival}" if self.rival else ""
        if _INTEGER.fullmatch(label) and all(map(_INTEGER.fullmatch, self.codes)):
            return UsageError(
                f"{at}: class id {label} is out of range, expected one of {known} "
                f"(from {self.authority}){rival}"
            )
        guess = nearest(label, self.codes)
        return UsageError(
            f"{at}: unknown label {label!r}, expected one of {known} "
            f"(from {self.authority}){rival}",
            f"did you mean {guess!r}?" if guess else "",
        )


def listed_in(path: Path) -> tuple[Listed, str]:
    """Read a labels.txt: one class per line, line number (from 0) = id; and its sha256.

    Raises UsageError for a blank line, a name given twice, or fewer than two names.
    """
    lines, digest = read_lines(path)
    names = [line.strip() for line in lines]
    for number, name in enumerate(names, start=1):
        if not name:
            raise UsageError(f"{path}:{number}: a blank line, expected the name of a class")
        if name in names[: number - 1]:
            raise UsageError(f"{path}:{number}: class {name!r} is named twice")
    if len(names) < 2:
        raise UsageError(f"{path}: only one class ({names[0]!r}), expected at least two")
    return Listed(tuple(names), str(path)), digest


def reconcile(
    found: Iterable[str],
    listed: Listed | None,
    teacher: Mapping[int, str] | None,
    *,
    where: str,
) -> Classes:
    """Decide what the labels `found` in the data mean.

    `where` names the data in messages. A label that turns out to be no class is not refused here:
    `Classes.code` finds it row by row. Raises UsageError where names or numbers of classes cannot
    be reconciled, with both sets.
    """
    spelled = {str(int(label)) if _INTEGER.fullmatch(label) else label for label in found}
    data = Listed(tuple(sorted(spelled, key=_natural)), where)
    head = _head(teacher) if teacher else None
    if listed is not None and head is not None and len(listed.names) != len(head.names):
        raise _irreconcilable(listed, head)
    by_line = _names_by_id(data, listed, head)
    final = head if head is not None and not head.generic else by_line
    ids = _positions(by_line, final)
    # Integers are ids, unless the classes themselves are called by other integers (1 to 5).
    counted = data.digits and not (by_line.digits and not by_line.counted)
    said = [str(i) for i in range(len(ids))] if counted else by_line.names
    notes = []
    if ids != sorted(ids):
        notes.append(f"{by_line.source} has another order than the teacher, whose ids are used")
    if head is not None and head.generic and by_line is listed:
        notes.append(f"the teacher's classes have no names, those of {listed.source} are used")
    return Classes(
        names=final.names,
        named=not final.generic,
        codes=dict(zip(said, ids, strict=True)),
        authority=str(by_line) if counted and not by_line.counted else by_line.source,
        rival=f"the data has {_several(data.names)}" if by_line is head else "",
        notes=tuple(notes),
    )


def _names_by_id(data: Listed, listed: Listed | None, head: Listed | None) -> Listed:
    """Return who says which class a line number, or the data's integer, stands for."""
    if listed is not None and not listed.counted:
        return listed
    if head is not None:
        if listed is None:
            _check_unlisted(data, head)
        return head
    return listed if listed is not None else _self_named(data)


def _check_unlisted(data: Listed, head: Listed) -> None:
    if not data.digits:
        if head.generic and not set(data.names) <= set(head.names):
            hint = "list the classes in labels.txt beside the data, in the order of the teacher's"
            raise _irreconcilable(data, head, hint)
    elif len(data.names) < len(head.names):
        hint = (
            f"if the data lacks some classes on purpose, list all {len(head.names)} in labels.txt"
        )
        raise _irreconcilable(data, head, hint)


def _self_named(data: Listed) -> Listed:
    integers = [name for name in data.names if _INTEGER.fullmatch(name)]
    advice = "list the classes in labels.txt beside the data: the line number, from 0, is the id"
    if integers and not data.digits:
        raise UsageError(
            f"{data.source}: the labels mix class ids and names: {_several(data.names)}", advice
        )
    if integers and not data.counted:
        raise UsageError(
            f"{data.source}: the class ids are {_several(data.names)}, "
            f"expected 0 to {len(integers) - 1} without a gap",
            advice,
        )
    if all(map(_is_number, data.names)) and not integers:
        raise UsageError(
            f"{data.source}: the labels are fractions ({_several(data.names)}), "
            "expected class ids or class names",
            "write class ids as integers, or set data.task=regress where the numbers are scores",
        )
    return data if integers else Listed(tuple(sorted(data.names)), data.source)


def _positions(lines: Listed, final: Listed) -> list[int]:
    """Return the id in `final` of each name of `lines`; UsageError where they differ as sets."""
    if lines is final:
        return list(range(len(final.names)))
    known = {name: i for i, name in enumerate(final.names)}
    found = [known.get(name, _by_case(name, known)) for name in lines.names]
    ids = [i for i in found if i is not None]
    if sorted(ids) != list(range(len(final.names))):
        raise _irreconcilable(lines, final)
    return ids


def _head(teacher: Mapping[int, str]) -> Listed:
    if sorted(teacher) != list(range(len(teacher))):
        raise UsageError(
            f"the teacher's id2label has the ids {_several(map(str, sorted(teacher)))}, "
            f"expected 0 to {len(teacher) - 1}"
        )
    names = tuple(teacher[i] for i in range(len(teacher)))
    if len(set(names)) != len(names):
        raise UsageError(f"the teacher's id2label names a class twice: {_several(names)}")
    return Listed(names, "the teacher")


def _irreconcilable(data: Listed, head: Listed, hint: str = "") -> UsageError:
    return UsageError(
        f"the {len(data.names)} classes of {data} and the {len(head.names)} of {head} "
        "cannot be reconciled",
        hint or "use a teacher trained on these classes or a bare encoder, or correct labels.txt",
    )


def _by_case(label: str, known: Mapping[str, int]) -> int | None:
    same = {value for name, value in known.items() if name.casefold() == label.casefold()}
    return same.pop() if len(same) == 1 else None


def _is_number(label: str) -> bool:
    try:
        float(label)
    except ValueError:
        return False
    return True


def _natural(label: str) -> tuple[bool, int, str]:
    number = bool(_INTEGER.fullmatch(label))
    return not number, int(label) if number else 0, label


def _several(names: Iterable[str]) -> str:
    shown = list(names)
    if len(shown) <= _SHOWN:
        return ", ".join(shown)
    return f"{', '.join(shown[:_SHOWN])}, ... {len(shown)} in all"
