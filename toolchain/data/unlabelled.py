"""Further texts of a task without labels: a student learns from them what its teacher says."""

from dataclasses import dataclass
from pathlib import Path

from toolchain.artifact import digest_of
from toolchain.data.columns import Chosen, choose
from toolchain.data.readers import FORMATS, TEXT_COLUMN, Table, is_text, read_table, read_texts
from toolchain.data.rows import read_rows
from toolchain.data.sources import TaskData, texts_in
from toolchain.errors import UsageError
from toolchain.recipe import Columns

__all__ = ["Unlabelled", "load_unlabelled"]


@dataclass(frozen=True, kw_only=True)
class Unlabelled:
    """R texts, for pairs R second texts, none of them twice and none in the task's own splits.

    `found` is the number of rows that were read, `digest` the sha256 over what is kept.
    """

    file: str
    texts: tuple[str, ...]
    texts_b: tuple[str, ...] | None
    found: int
    digest: str

    def __len__(self) -> int:
        """Return the number of rows kept."""
        return len(self.texts)


def load_unlabelled(source: str, task: TaskData, columns: Columns) -> Unlabelled:
    """Read the texts of a file, or of a folder of .txt files, that the task's splits do not have.

    Rows of dev and test are left out so that what is measured there stays held out, rows of train
    because their labels are known. Raises UsageError for what cannot be read, or holds nothing new.
    """
    table, chosen = _opened(source, task, columns)
    rows = read_rows(table, chosen)
    known = {
        key
        for split in (task.train, task.dev, *((task.test,) if task.test else ()))
        for key in _keys(split.texts, split.texts_b)
    }
    new: dict[tuple[str, str], None] = {}
    for key in _keys(tuple(rows.texts), tuple(rows.texts_b) if rows.texts_b else None):
        if key not in known:
            new.setdefault(key)
    if not new:
        raise UsageError(f"{source}: every text of it is among those of {task.name} already")
    pairs = task.kind == "pair"
    return Unlabelled(
        file=source,
        texts=tuple(first for first, _ in new),
        texts_b=tuple(second for _, second in new) if pairs else None,
        found=len(rows.texts),
        digest=digest_of([list(key) for key in new]),
    )


def _keys(texts: tuple[str, ...], texts_b: tuple[str, ...] | None) -> list[tuple[str, str]]:
    return list(zip(texts, texts_b or ("",) * len(texts), strict=True))


def _opened(source: str, task: TaskData, columns: Columns) -> tuple[Table, Chosen]:
    path = Path(source)
    files = [path]
    if path.is_dir():
        files = texts_in(path)
    elif not path.is_file():
        raise UsageError(
            f"{path}: no such file or folder", f"give .txt, or one of {', '.join(FORMATS)}"
        )
    if is_text(files[0]):
        if task.kind == "pair":
            raise UsageError(
                f"{path}: one text per line, but the rows of {task.name} are pairs",
                "give a file with columns of its two texts",
            )
        return read_texts(str(path), files), Chosen(TEXT_COLUMN, None, None, "mask_lm")
    table = read_table(path)
    chosen = choose(table, Columns(text=columns.text, text_b=columns.text_b), "mask_lm")
    if (chosen.text_b is not None) != (task.kind == "pair"):
        texts = ("one text", "pairs")
        found, expected = texts[chosen.text_b is not None], texts[task.kind == "pair"]
        raise UsageError(
            f"{path}: its rows are {found}, those of {task.name} are {expected}",
            "name its columns as the task's are (data.columns.text, data.columns.text_b)",
        )
    return table, chosen
