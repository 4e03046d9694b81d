"""Data sets of the `datasets` package: a saved folder, or an id on the hub.

The package is an extra. Only data is read: loading scripts are never run.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from toolchain.data.labels import Listed
from toolchain.data.readers import Table
from toolchain.errors import UsageError

if TYPE_CHECKING:
    from datasets import Dataset, DatasetDict

__all__ = ["Held", "is_hub_id", "is_saved", "open_hub", "open_saved"]

_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*(:[\w.-]+)?", re.ASCII)
_EXTRA = "pip install 'toolchain[hub]'"


@dataclass(frozen=True, kw_only=True)
class Held:
    """The splits of a data set by the names it gives them, and its files if they are local."""

    source: str
    tables: Mapping[str, Table]
    features: Mapping[str, Listed]
    files: tuple[Path, ...]


def is_hub_id(source: str) -> bool:
    """Return whether a string has the shape of a hub id: owner/name or owner/name:config.

    Where `owner` is a folder here, a missing path is meant.
    """
    return bool(_ID.fullmatch(source)) and not Path(source).parent.is_dir()


def is_saved(folder: Path) -> bool:
    """Return whether a folder was written by `save_to_disk`."""
    return any((folder / name).is_file() for name in ("dataset_dict.json", "dataset_info.json"))


def open_saved(folder: Path) -> Held:
    """Open a folder written by `save_to_disk`.

    Raises UsageError without the extra, or for a damaged folder.
    """
    try:
        from datasets import load_from_disk
    except ImportError:
        raise _extra_missing(f"{folder}: a saved data set") from None
    try:
        loaded = load_from_disk(str(folder))
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UsageError(f"{folder}: not a whole saved data set: {_first_line(error)}") from None
    files = tuple(sorted(path for path in folder.rglob("*") if path.is_file()))
    return _held(str(folder), loaded, files)


def open_hub(source: str) -> Held:
    """Load a data set from the hub, or from the cache of an earlier load.

    Raises UsageError without the extra, without a network, or where there is no such data set.
    """
    try:
        from datasets import load_dataset
        from datasets.exceptions import DatasetsError
    except ImportError:
        raise _extra_missing(f"{source}: no such file or folder; a data set of the hub") from None
    name, _, config = source.partition(":")
    try:
        loaded = load_dataset(name, config or None)
    except (OSError, ValueError, RuntimeError, DatasetsError) as error:
        raise UsageError(
            f"{source}: no such file or folder, and the hub did not give it: {_first_line(error)}",
            "a configuration is named after a colon, such as nyu-mll/glue:sst2",
        ) from None
    return _held(source, loaded, ())


def _held(source: str, loaded: "Dataset | DatasetDict", files: tuple[Path, ...]) -> Held:
    from datasets import ClassLabel, DatasetDict, Sequence

    def classes(feature: object) -> ClassLabel | None:
        # Tags and sets of labels are lists of a class each; List is a kind of Sequence.
        inner = feature.feature if isinstance(feature, Sequence) else feature
        return inner if isinstance(inner, ClassLabel) else None

    splits = dict(loaded) if isinstance(loaded, DatasetDict) else {"": loaded}
    features = {
        column: Listed(tuple(named.names), f"{source}[{column}]")
        for split in splits.values()
        for column, feature in split.features.items()
        if (named := classes(feature)) is not None
    }
    return Held(
        source=source,
        tables={str(name): _table(source, str(name), split) for name, split in splits.items()},
        features=features,
        files=files,
    )


def _table(source: str, name: str, split: "Dataset") -> Table:
    file = f"{source}[{name}]" if name else source

    def values(column: str) -> list[object]:
        # As Arrow, since Python rows are slow and the raw table ignores a selection of rows.
        rows = split.select_columns([column]).with_format("arrow")[:]
        return list(rows.column(column).to_pylist())

    return Table(
        file=file,
        head=f"{file}: the schema",
        header=tuple(split.column_names),
        places=range(1, len(split) + 1),
        unit="row",
        digest=None,
        values=values,
    )


def _extra_missing(what: str) -> UsageError:
    return UsageError(f"{what} needs the package datasets, which is not installed", _EXTRA)


def _first_line(error: Exception) -> str:
    return str(error).split("\n", 1)[0]
