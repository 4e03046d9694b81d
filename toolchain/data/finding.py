"""Which files or splits a source stands for: a folder, one file, a saved data set, a hub id."""

import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from toolchain.data import hub
from toolchain.data.labels import Listed, listed_in
from toolchain.data.readers import FORMATS, Table, format_of, read_table
from toolchain.errors import UsageError

__all__ = ["Found", "find", "names_in"]

_SPLITS = {
    "train": ("train",),
    "dev": ("dev", "validation", "valid", "val"),
    "test": ("test",),
}
_LABELS_FILE = "labels.txt"


@dataclass(frozen=True, kw_only=True)
class Found:
    """What lies at a source before its rows are looked at."""

    name: str
    tables: Mapping[str, Table]
    files: tuple[Path, ...]
    digests: Mapping[str, str]
    listed: Listed | None = None
    features: Mapping[str, Listed]
    notes: tuple[str, ...] = ()


def find(source: str) -> Found:
    """Open the tables at a path or of a hub id. Raises UsageError where there are none."""
    path = Path(source)
    # os.path answers False where Path raises: a name too long, a null byte.
    if source and os.path.isdir(source):
        return _from_hub(hub.open_saved(path)) if hub.is_saved(path) else _find_folder(path)
    if os.path.isfile(source):
        return _find_file(path)
    if format_of(path) is not None or not hub.is_hub_id(source):
        raise UsageError(
            f"{source}: no such file or folder",
            "give a folder with train and dev files, one data file, or a hub id (owner/name)",
        )
    return _from_hub(hub.open_hub(source))


def _stem(path: Path) -> str:
    name = path.name.lower().removesuffix(".gz")
    return name.removesuffix(format_of(path) or "")


def _find_file(path: Path) -> Found:
    table = read_table(path)
    return _with_labels_file(path.parent, _stem(path), {"train": path}, {"train": table}, ())


def _find_folder(folder: Path) -> Found:
    names = sorted(path for path in folder.iterdir() if path.is_file())
    if not names:
        raise UsageError(f"{folder}: the folder holds no files", "give a folder with train and dev")
    candidates = {
        split: [p for p in names if format_of(p) and _stem(p) in stems]
        for split, stems in _SPLITS.items()
    }
    for split in ("train", "dev"):
        if not candidates[split]:
            stems = " or ".join(_SPLITS[split])
            raise UsageError(
                f"{folder}: no {split} file, expected {stems} with one of {', '.join(FORMATS)}, "
                f"found: {names_in(folder)}",
                "give one file alone to have a dev split held out of it",
            )
    kinds = [
        kind
        for kind in FORMATS
        if all(kind in map(format_of, candidates[split]) for split in ("train", "dev"))
    ]
    paths: dict[str, Path] = {}
    notes: list[str] = []
    for split, offered in candidates.items():
        same = [path for path in offered if kinds and format_of(path) == kinds[0]] or offered
        if len(same) > 1:
            both = " and ".join(path.name for path in same)
            raise UsageError(f"{folder}: two {split} files, {both}", "keep one of them")
        notes += [f"{path} is not read: {same[0].name} is" for path in offered if path not in same]
        if same:
            paths[split] = same[0]
    tables = {split: read_table(path) for split, path in paths.items()}
    return _with_labels_file(folder, folder.resolve().name, paths, tables, notes)


def _with_labels_file(
    folder: Path,
    name: str,
    paths: Mapping[str, Path],
    tables: Mapping[str, Table],
    notes: Iterable[str],
) -> Found:
    digests = {split: str(table.digest) for split, table in tables.items()}
    files = list(paths.values())
    listed = None
    if (folder / _LABELS_FILE).is_file():
        listed, digests["labels"] = listed_in(folder / _LABELS_FILE)
        files.append(folder / _LABELS_FILE)
    return Found(
        name=name,
        tables=tables,
        files=tuple(files),
        digests={**digests, **{f"{split} format": str(format_of(p)) for split, p in paths.items()}},
        listed=listed,
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
