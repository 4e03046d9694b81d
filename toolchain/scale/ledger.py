"""The folder of a cache: what it is of, which shards are finished, who writes into it.

`cache.json` says what the shards hold and never changes. `shards.jsonl` has one line for every
finished shard, appended after the shard was renamed into place; a line that a kill has torn is
dropped. Shards are never changed, so that readers need no lock; writers take turns.
"""

import functools
import hashlib
import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from toolchain.artifact import digest_of, file_sha256, out_of_disk, write_atomic
from toolchain.errors import IntegrityError, UsageError
from toolchain.scale.knowledge import Keep
from toolchain.scale.turns import turn

__all__ = ["CacheFolder", "Identity", "Shard", "teacher_folder"]

_FORMAT = 1
_IDENTITY, _LEDGER = "cache.json", "shards.jsonl"
_AGAIN = "run toolchain cache again with the same arguments: it makes that shard alone anew"


def teacher_folder(cache: Path, number: int) -> Path:
    """Return where the knowledge of a teacher, from 1, lies below the folder that was named."""
    return cache / ("teacher" if number == 1 else f"teacher-{number}")


@dataclass(frozen=True, kw_only=True)
class Identity:
    """What a cache is of: rows of anything else have no place in it.

    `teacher` and `tokenizer` are digests, `source` is what the teacher was called; `computed` is
    the precision of the forward passes, `versions` those of the libraries that ran them.
    """

    teacher: str
    source: str
    tokenizer: str
    task: str
    max_tokens: int
    keeps: tuple[Keep, ...]
    computed: str
    versions: Mapping[str, str]

    @property
    def digest(self) -> str:
        """Digest of all of it."""
        return digest_of(self.as_json())

    def as_json(self) -> dict[str, Any]:
        """Return it as cache.json holds it."""
        fields = {name: getattr(self, name) for name in self.__dataclass_fields__}
        return {"format": _FORMAT, **fields, "keeps": [keep.as_json() for keep in self.keeps]}

    def difference(self, other: "Identity") -> str:
        """Return the first thing in which another cache is of something else, as a sentence."""
        for name, said in (
            ("teacher", "teacher"),
            ("tokenizer", "tokenizer"),
            ("task", "task"),
            ("max_tokens", "data.max_tokens"),
        ):
            mine, theirs = getattr(self, name), getattr(other, name)
            if mine != theirs:
                short = (str(value)[:12] for value in (mine, theirs))
                found, expected = short
                return f"{said} {found}, expected {expected}"
        return ""


@dataclass(frozen=True)
class Shard:
    """One finished file: its name, digest and size, and the rows `first` .. `first + rows - 1`."""

    name: str
    sha256: str
    bytes: int
    first: int
    rows: int
    tokens: int


class CacheFolder:
    """A cache on disk."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self._written: list[Shard] | None = None

    @property
    def exists(self) -> bool:
        """Whether a cache was begun here."""
        return (self.root / _IDENTITY).is_file()

    def identity(self) -> Identity:
        """Return what it is of.

        Raises UsageError for a folder without a cache, IntegrityError for a damaged manifest.
        """
        path = self.root / _IDENTITY
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
            if content.pop("format") != _FORMAT:
                raise UsageError(f"{path}: written by another version", "make the cache anew")
            recorded = content.pop("digest")
            keeps = tuple(Keep.of_json(value) for value in content.pop("keeps"))
            identity = Identity(**{**content, "keeps": keeps})
        except FileNotFoundError:
            raise UsageError(
                f"{self.root}: no {_IDENTITY}, so no cache", "make one with toolchain cache"
            ) from None
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise UsageError(f"{path}: not the manifest of a cache: {error}") from None
        if identity.digest != recorded:
            raise IntegrityError(
                f"{path}: digest {identity.digest[:12]} is not the recorded {recorded[:12]}",
                "remove the folder and make the cache anew",
            )
        return identity

    def shards(self) -> list[Shard]:
        """Return the finished shards in order. Raises IntegrityError for a ledger of nonsense."""
        path = self.root / _LEDGER
        if not path.is_file():
            return []
        found = []
        # What follows the last line feed was torn by a kill.
        for number, line in enumerate(path.read_bytes().split(b"\n")[:-1], 1):
            try:
                shard = Shard(**json.loads(line))
            except (ValueError, TypeError) as error:
                raise IntegrityError(
                    f"{path}:{number}: not a line of the ledger: {error}",
                    "remove the folder and make the cache anew",
                ) from None
            if Path(shard.name).name != shard.name:
                raise IntegrityError(f"{path}:{number}: {shard.name!r} points outside its folder")
            found.append(shard)
        return found

    def path(self, shard: Shard) -> Path:
        """Return where a shard lies."""
        return self.root / shard.name

    def check(self, shard: Shard) -> None:
        """Compare a shard with its recorded size and digest. Raises IntegrityError."""
        path = self.path(shard)
        if not path.is_file():
            raise IntegrityError(f"{path}: the shard is missing", _AGAIN)
        size = path.stat().st_size
        if size != shard.bytes:
            raise IntegrityError(
                f"{path}: cut short or damaged: {size:,} bytes, expected {shard.bytes:,}", _AGAIN
            )
        found = _digest(path, size, path.stat().st_mtime_ns)
        if found != shard.sha256:
            raise IntegrityError(
                f"{path}: sha256 {found[:12]} is not the recorded {shard.sha256[:12]}", _AGAIN
            )

    @contextmanager
    def writing(self, say: Callable[[str], None]) -> Iterator[None]:
        """Have the folder for this process; while another one writes into it, wait, and `say` so.

        What the other has finished is then there. Raises UsageError where no folder can be made.
        """
        try:
            self.root.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UsageError(f"cache {self.root}: cannot be made: {error.strerror}") from None
        with turn(self.root, say, self._done):
            self._written = None
            yield

    def begin(self, identity: Identity) -> None:
        """Say what it is of, where it is new. Raises UsageError where it is of something else."""
        if self.exists:
            self.require(identity)
            return
        content = {**identity.as_json(), "digest": identity.digest}
        text = json.dumps(content, indent=2, sort_keys=True) + "\n"
        write_atomic(self.root / _IDENTITY, text)

    def require(self, expected: Identity) -> None:
        """Raise UsageError unless the folder is of this teacher, this tokenizer, this task."""
        difference = self.identity().difference(expected)
        if difference:
            raise UsageError(
                f"cache {self.root}: it is of {difference}",
                "name the cache that was made for these, or make another with toolchain cache",
            )

    def add(self, data: bytes, *, rows: int, tokens: int) -> Shard:
        """Write one more shard and note it. Raises ResourceError when the disk is full."""
        if self._written is None:
            self._written = self.shards()
        last = self._written[-1] if self._written else None
        number = 1 + (int(last.name.split(".")[0].split("-")[1]) if last else -1)
        path = self.root / f"shard-{number:06}.safetensors"
        write_atomic(path, data)
        shard = Shard(
            name=path.name,
            sha256=hashlib.sha256(data).hexdigest(),
            bytes=len(data),
            first=last.first + last.rows if last else 0,
            rows=rows,
            tokens=tokens,
        )
        self._append(shard)
        self._written.append(shard)
        return shard

    def drop_damaged(self) -> list[str]:
        """Forget shards that are missing or damaged; return what was wrong with each."""
        shards, whole, said = self.shards(), [], []
        for shard in shards:
            try:
                self.check(shard)
                whole.append(shard)
            except IntegrityError as error:
                said.append(error.message)
        if said:
            self._rewrite(whole)
            self._written = None
            for shard in set(shards) - set(whole):
                self.path(shard).unlink(missing_ok=True)
        return said

    def _done(self) -> str:
        return f"{sum(shard.rows for shard in self.shards()):,} rows are finished"

    def _append(self, shard: Shard) -> None:
        path = self.root / _LEDGER
        torn = path.is_file() and not path.read_bytes().endswith(b"\n") and path.stat().st_size
        if torn:
            self._rewrite(self.shards())
        try:
            with path.open("ab") as file:
                file.write(_line(shard))
                file.flush()
                os.fsync(file.fileno())
        except OSError as error:
            raise out_of_disk(error, path) from error

    def _rewrite(self, shards: Sequence[Shard]) -> None:
        write_atomic(self.root / _LEDGER, b"".join(map(_line, shards)))


@functools.cache
def _digest(path: Path, size: int, changed: int) -> str:  # noqa: ARG001 - what makes it another
    """Return a file's sha256, read once in a process while the file stays as it is."""
    return file_sha256(path)


def _line(shard: Shard) -> bytes:
    return json.dumps(asdict(shard)).encode() + b"\n"
