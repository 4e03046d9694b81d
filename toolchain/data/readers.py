"""Files of rows read into named columns, where each row still knows its line.

Five formats, each found by its suffix; all but Parquet may be gzipped. A bad file is refused with
its name and line number (from 1; the header is line 1), never repaired in silence.
"""

import csv
import gzip
import hashlib
import io
import json
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from toolchain.artifact import digest_of
from toolchain.data.json_rows import rows_of
from toolchain.errors import UsageError

__all__ = [
    "FORMATS",
    "TEXT_COLUMN",
    "Table",
    "format_of",
    "is_text",
    "read_lines",
    "read_table",
    "read_texts",
]

FORMATS = (".tsv", ".csv", ".jsonl", ".json", ".parquet")
TEXT_COLUMN = "text"
"""The one column of raw text."""


@dataclass(frozen=True, kw_only=True)
class Table:
    """Rows of one file: `values(column)` gives one value per row.

    `head` is what names the columns, as an error message begins. `places` are the 1-based numbers
    of the rows in the file, counted in `unit`s. `digest` is the sha256 of the uncompressed
    content, None for rows that did not come from one file.
    """

    file: str
    head: str
    header: tuple[str, ...]
    places: Sequence[int]
    unit: Literal["line", "row"]
    digest: str | None
    values: Callable[[str], list[object]]

    def __len__(self) -> int:
        """Return the number of rows."""
        return len(self.places)

    def at(self, index: int) -> str:
        """Return where row `index` lies, as an error message begins."""
        place = self.places[index]
        return f"{self.file}:{place}" if self.unit == "line" else f"{self.file}: row {place}"


def format_of(path: Path) -> str | None:
    """Return the format a file's name promises (such as ".tsv" for train.tsv.gz), or None."""
    name = path.name.lower()
    for suffix in FORMATS:
        if name.endswith(suffix) or (suffix != ".parquet" and name.endswith(suffix + ".gz")):
            return suffix
    return None


def is_text(path: Path) -> bool:
    """Return whether a file's name promises raw text: .txt or .txt.gz."""
    return path.name.lower().endswith((".txt", ".txt.gz"))


def read_texts(name: str, paths: Sequence[Path]) -> Table:
    """Read raw text as rows of one column, one per line that is not blank, called `name`.

    Raises UsageError for a file that is not UTF-8, or where there is no text at all.
    """
    texts: list[object] = []
    places: list[int] = []
    digests = []
    for path in paths:
        lines, digest = read_lines(path)
        digests.append(digest)
        kept = [(i, line) for i, line in enumerate(lines, start=1) if line.strip()]
        texts += [line for _, line in kept]
        places += [i for i, _ in kept]
    if not texts:
        raise UsageError(f"{name}: no text, every line is blank")
    return Table(
        file=name,
        head=f"{name}: raw text",
        header=(TEXT_COLUMN,),
        places=places if len(paths) == 1 else range(1, len(texts) + 1),
        unit="line" if len(paths) == 1 else "row",
        digest=digest_of(digests),
        values=lambda _: texts,
    )


def read_table(path: Path) -> Table:
    """Read a file of rows by its suffix.

    Raises UsageError, with file and line, for anything that is not a whole table.
    """
    kind = format_of(path)
    if kind is None:
        raise UsageError(
            f"{path}: unknown format of data file, expected {', '.join(FORMATS)}",
            "all but .parquet may also end in .gz",
        )
    table = _read_parquet(path) if kind == ".parquet" else _read_text_table(path, kind)
    if not len(table):
        raise UsageError(f"{path}: a header but no rows, expected at least one row")
    repeated = [name for name in table.header if table.header.count(name) > 1]
    if repeated:
        raise UsageError(f"{path}:1: the header names column {repeated[0]!r} twice")
    return table


def read_lines(path: Path) -> tuple[list[str], str]:
    """Return the lines of a text file, plain or .gz, and the sha256 of its content.

    Only line feeds (with or without a carriage return before) end a line: other Unicode
    separators belong to the text. Empty lines at the end are dropped. Raises UsageError.
    """
    content = _read_bytes(path)
    try:
        text = content.decode("utf-8")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise UsageError(
            f"{path}:{line}: byte 0x{content[error.start]:02x} is not valid UTF-8",
            "save the file as UTF-8",
        ) from None
    lines = text.removeprefix("\ufeff").split("\n")
    if "\r" in text:
        lines = [line.removesuffix("\r") for line in lines]
    while lines and not lines[-1].strip(" "):
        lines.pop()
    if not lines:
        raise UsageError(f"{path}: the file is empty")
    return lines, hashlib.sha256(content).hexdigest()


def _read_bytes(path: Path) -> bytes:
    try:
        content = path.read_bytes()
    except OSError as error:
        raise UsageError(f"{path}: cannot be read: {error.strerror}") from None
    if not path.name.lower().endswith(".gz"):
        return content
    try:
        return gzip.decompress(content)
    except EOFError:
        raise UsageError(
            f"{path}: the gzip file is cut short", "copy or download it again"
        ) from None
    except (gzip.BadGzipFile, zlib.error) as error:
        raise UsageError(
            f"{path}: not a whole gzip file: {error}", "copy or download it again"
        ) from None


def _read_text_table(path: Path, kind: str) -> Table:
    lines, digest = read_lines(path)
    if kind == ".jsonl":
        return _objects(path, _jsonl(path, lines), digest, "line")
    if kind == ".json":
        return _objects(path, rows_of(path, "\n".join(lines)), digest, "row")
    if kind == ".csv":
        return _rows(path, *_split_csv(path, lines), digest)
    rows = [line.split("\t") for line in lines]
    return _rows(path, rows, range(1, len(rows) + 1), digest)


def _split_csv(path: Path, lines: list[str]) -> tuple[list[list[str]], list[int]]:
    # Lines are joined again because a quoted field may hold line feeds.
    reader = csv.reader(io.StringIO("\n".join(lines) + "\n", newline=""), strict=True)
    rows: list[list[str]] = []
    starts: list[int] = []
    start = 1
    try:
        for row in reader:
            rows.append(row)
            starts.append(start)
            start = reader.line_num + 1
    except csv.Error as error:
        raise UsageError(
            f"{path}:{start}: not valid CSV: {error}",
            'a field with a comma or a quote is written in quotes, a quote inside as ""',
        ) from None
    return rows, starts


def _rows(path: Path, rows: list[list[str]], places: Sequence[int], digest: str) -> Table:
    header = tuple(name.strip() for name in rows[0])
    body = rows[1:]
    for index, row in enumerate(body):
        if len(row) != len(header):
            raise UsageError(
                f"{path}:{places[index + 1]}: {len(row)} field{'s' * (len(row) != 1)}, "
                f"expected {len(header)} ({', '.join(header)})"
            )

    def values(column: str) -> list[object]:
        position = header.index(column)
        return [row[position] for row in body]

    return Table(
        file=str(path),
        head=f"{path}:1: the header",
        header=header,
        places=places[1:],
        unit="line",
        digest=digest,
        values=values,
    )


def _jsonl(path: Path, lines: list[str]) -> list[dict[str, object]]:
    objects: list[dict[str, object]] = []
    for number, line in enumerate(lines, start=1):
        try:
            value = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise UsageError(f"{path}:{number}: not valid JSON: {error}") from None
        if not isinstance(value, dict):
            raise UsageError(
                f"{path}:{number}: a JSON {_kind_of_json(value)}, expected an object per line"
            )
        objects.append(value)
    return objects


def _objects(
    path: Path, objects: list[dict[str, object]], digest: str, unit: Literal["line", "row"]
) -> Table:
    at = f"{path}:" if unit == "line" else f"{path}: row "

    def values(column: str) -> list[object]:
        for number, value in enumerate(objects, start=1):
            if column not in value:
                found = ", ".join(value) or "none"
                raise UsageError(f"{at}{number}: no key {column!r}, found keys: {found}")
        return [value[column] for value in objects]

    return Table(
        file=str(path),
        head=f"{at}1: the first object",
        header=tuple(objects[0]) if objects else (),
        places=range(1, len(objects) + 1),
        unit=unit,
        digest=digest,
        values=values,
    )


def _kind_of_json(value: object) -> str:
    if isinstance(value, list):
        return "list"
    if isinstance(value, str):
        return "string"
    return "null" if value is None else "number or boolean"


def _read_parquet(path: Path) -> Table:
    # Imported here: a third of a second that the text formats need not pay.
    import pyarrow as pa
    import pyarrow.parquet as pq

    content = _read_bytes(path)
    if not content:
        raise UsageError(f"{path}: the file is empty")
    try:
        file = pq.ParquetFile(pa.BufferReader(content))
    except (pa.ArrowException, OSError) as error:
        raise UsageError(f"{path}: not a Parquet file: {_first_line(error)}") from None

    def values(column: str) -> list[object]:
        try:
            return list(file.read(columns=[column]).column(0).to_pylist())
        except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
            raise UsageError(
                f"{path}: column {column!r} cannot be read: {_first_line(error)}"
            ) from None

    return Table(
        file=str(path),
        head=f"{path}: the schema",
        header=tuple(file.schema_arrow.names),
        places=range(1, file.metadata.num_rows + 1),
        unit="row",
        digest=hashlib.sha256(content).hexdigest(),
        values=values,
    )


def _first_line(error: Exception) -> str:
    return str(error).split("\n", 1)[0]
