"""Which files or splits a source stands for: a folder, one file, a saved data set, a hub id."""

import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from toolchain.data import hub
from toolchain.data.labels import Listed, listed_in
from toolchain.data.readers import FORMATS, Table, format_of, is_text, read_table, read_texts
from toolchain.errors import UsageError
from toolchain.recipe import DataTask
from toolchain.spec import LANGUAGE

__all__ = ["Found", "find", "names_in", "with_listed"]

_SPLITS = {
    "train": ("train",),
    "dev": ("dev", "validation", "valid", "val"),
    "test": ("test",),
}
# What lists the names of a task's outputs beside the data.
_LISTS: Mapping[DataTask, str] = {
    "classify": "labels.txt",
    "multi_label": "labels.txt",
    "tag": "tags.txt",
}
# Formats that can hold lists of words.
_NESTED = (".jsonl", ".json", ".parquet")

Asked = Literal["auto"] | DataTask


@dataclass(frozen=True, kw_only=True)
class Found:
    """What lies at a source before its rows are looked at.

    `folder` is where a list of classes may lie beside the data; `listed` is that list.
    """

    name: str
    tables: Mapping[str, Table]
    files: tuple[Path, ...]
    digests: Mapping[str, str]
    folder: Path | None = None
    listed: Listed | None = None
    features: Mapping[str, Listed]
    notes: tuple[str, ...] = ()


def find(source: str, task: Asked = "auto") -> Found:
    """Open the tables at a path or of a hub id. Raises UsageError where there are none.

    `task` decides between files of one split: words and tags need a format with lists.
    """
    path = Path(source)
    # os.path answers False where Path raises: a name too long, a null byte.
    if source and os.path.isdir(source):
        return _from_hub(hub.open_saved(path)) if hub.is_saved(path) else _find_folder(path, task)
    if os.path.isfile(source):
        return _find_file(path)
    if format_of(path) is not None or is_text(path) or not hub.is_hub_id(source):
        raise UsageError(
            f"{source}: no such file or folder",
            "give a folder with train and dev files, one data file, or a hub id (owner/name)",
        )
    return _from_hub(hub.open_hub(source))


def with_listed(found: Found, task: DataTask) -> Found:
    """Return what was found with the names that labels.txt, or tags.txt, beside it lists."""
    name = _LISTS.get(task)
    if name is None or found.folder is None or not (found.folder / name).is_file():
        return found
    listed, digest = listed_in(found.folder / name)
    return replace(
        found,
        listed=listed,
        files=(*found.files, found.folder / name),
        digests={**found.digests, "labels": digest},
    )


def _stem(path: Path) -> str:
    name = path.name.lower().removesuffix(".gz")
    return name.removesuffix(format_of(path) or ".txt")


def _find_file(path: Path) -> Found:
    table = read_texts(str(path), [path]) if is_text(path) else read_table(path)
    return _found(path.parent, _stem(path), {"train": [path]}, {"train": table}, ())


def _find_folder(folder: Path, task: Asked) -> Found:
    names = sorted(path for path in folder.iterdir() if path.is_file())
    if not names:
        raise UsageError(f"{folder}: the folder holds no files", "give a folder with train and dev")
    formats = _NESTED if task == "tag" else FORMATS
    candidates = {
        split: [p for p in names if format_of(p) in formats and _stem(p) in stems]
        for split, stems in _SPLITS.items()
    }
    texts = [path for path in names if is_text(path) and path.name not in _LISTS.values()]
    if texts and not candidates["train"] and task in ("auto", "embed", *LANGUAGE):
        return _find_texts(folder, texts)
    for split in ("train", "dev"):
        if not candidates[split]:
            stems = " or ".join(_SPLITS[split])
            raise UsageError(
                f"{folder}: no {split} file, expected {stems} with one of {', '.join(formats)}, "
                f"found: {names_in(folder)}",
                "give one file alone to have a dev split held out of it",
            )
    kinds = [
        kind
        for kind in formats
        if all(kind in map(format_of, candidates[split]) for split in ("train", "dev"))
    ]
    paths: dict[str, list[Path]] = {}
    notes: list[str] = []
    for split, offered in candidates.items():
        same = [path for path in offered if kinds and format_of(path) == kinds[0]] or offered
        if len(same) > 1:
            both = " and ".join(path.name for path in same)
            raise UsageError(f"{folder}: two {split} files, {both}", "keep one of them")
        notes += [f"{path} is not read: {same[0].name} is" for path in offered if path not in same]
        if same:
            paths[split] = same
    tables = {split: read_table(path) for split, (path,) in paths.items()}
    return _found(folder, folder.resolve().name, paths, tables, notes)


def _find_texts(folder: Path, texts: Sequence[Path]) -> Found:
    """Return raw text: dev and test by their names, every other file is train."""
    paths: dict[str, list[Path]] = {}
    for path in texts:
        split = next((s for s in ("dev", "test") if _stem(path) in _SPLITS[s]), "train")
        paths.setdefault(split, []).append(path)
    if "train" not in paths:
        raise UsageError(f"{folder}: no text to train on, found: {names_in(folder)}")
    tables = {
        split: read_texts(str(some[0] if len(some) == 1 else folder), some)
        for split, some in paths.items()
    }
    return _found(folder, folder.resolve().name, paths, tables, ())


def _found(
    folder: Path,
    name: str,
    paths: Mapping[str, Sequence[Path]],
    tables: Mapping[str, Table],
    notes: Iterable[str],
) -> Found:
    digests = {split: str(table.digest) for split, table in tables.items()}
    kinds = {f"{split} format": str(format_of(some[0])) for split, some in paths.items()}
    return Found(
        name=name,
        tables=tables,
        files=tuple(path for some in paths.values() for path in some),
        digests={**digests, **kinds},
        folder=folder,
        features={},
        notes=tuple(notes),
    )


def _from_hub(held: hub.Held) -> Found:
    splits = {
        split: held.tables[name]
        for split, names in _SPLITS.items()
        for name in names
        if name in held.tables
    }
    if "" in held.tables:
        splits["train"] = held.tables[""]
    if "train" not in splits:
        raise UsageError(
            f"{held.source}: no train split, found: {', '.join(held.tables) or 'none'}",
            "save the data set with splits called train, validation and test",
        )
    name = held.source.rstrip("/").rpartition("/")[2].replace(":", "-")
    return Found(name=name, tables=splits, files=held.files, digests={}, features=held.features)


def names_in(folder: Path) -> str:
    """Return the names in a folder, shortened, as an error message prints them."""
    names = sorted(path.name for path in folder.iterdir())
    return ", ".join(names[:10]) + (", ..." if len(names) > 10 else "") if names else "nothing"
