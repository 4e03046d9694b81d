"""Artifact: a folder that knows what it is, where it came from, and whether it is whole.

Every step writes its folder aside and renames it into place, so a folder with a manifest.json is
finished by construction. The manifest lists each file's sha256; reading checks them. The digest
of an artifact is the digest of its files, so equal content has an equal digest wherever it lies.
"""

import errno
import hashlib
import json
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any, BinaryIO

from toolchain.errors import IntegrityError, ResourceError, UsageError

__all__ = [
    "MANIFEST",
    "Artifact",
    "Draft",
    "digest_of",
    "drafting",
    "file_sha256",
    "folder_digest",
    "out_of_disk",
    "write_atomic",
    "writing_atomic",
]

MANIFEST = "manifest.json"


def file_sha256(path: Path) -> str:
    """Return the sha256 of a file's content, in hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def digest_of(value: object) -> str:
    """Return the sha256 of a JSON-able value in canonical form, in hex."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=True)
    return hashlib.sha256(text.encode()).hexdigest()


def folder_digest(files: Mapping[str, str]) -> str:
    """Return one digest for a set of files given as relative path to sha256."""
    return digest_of(sorted(files.items()))


def write_atomic(path: Path, data: bytes | str) -> None:
    """Write a file aside, fsync and rename, so that no half-written file bears its name."""
    with writing_atomic(path) as file:
        file.write(data.encode() if isinstance(data, str) else data)


@contextmanager
def writing_atomic(path: Path) -> Iterator[BinaryIO]:
    """Give a file to write into, which takes its name when the block ends well."""
    aside = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with aside.open("wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        aside.replace(path)
    except BaseException as error:
        aside.unlink(missing_ok=True)
        if isinstance(error, OSError):
            raise out_of_disk(error, path) from error
        raise


def out_of_disk(error: OSError, path: Path) -> Exception:
    """Return the error to raise: ResourceError when the disk is full, else the original."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return ResourceError(f"{path}: the disk is full", "free some space and run it again")
    return error


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _files_below(root: Path) -> list[str]:
    return sorted(
        p.relative_to(root).as_posix()
        for p in root.rglob("*")
        if p.is_file() and p.name != MANIFEST
    )


@dataclass(frozen=True, kw_only=True)
class Artifact:
    """A finished folder with a manifest.

    `made_by` holds the step, its key (digest of inputs, configuration and version) and versions;
    `parent` is the digest of the artifact this one was made from; `facts` is what the step found
    out (counts, metrics), as plain JSON.
    """

    root: Path
    format: str
    precision: str
    files: Mapping[str, str]
    made_by: Mapping[str, Any] = field(default_factory=dict)
    parent: str = ""
    facts: Mapping[str, Any] = field(default_factory=dict)

    @property
    def digest(self) -> str:
        """Digest of the content: every file's path and sha256."""
        return folder_digest(self.files)

    @property
    def key(self) -> str:
        """Digest of what it was made from; a step with the same key need not run again."""
        return str(self.made_by.get("key", ""))

    @property
    def bytes(self) -> int:
        """Bytes of all files."""
        return sum((self.root / name).stat().st_size for name in self.files)

    def path(self, name: str) -> Path:
        """Return the path of one of its files. Raises IntegrityError when it has none such."""
        if name not in self.files:
            raise IntegrityError(f"{self.root} holds no {name!r}")
        return self.root / name

    def verify(self) -> None:
        """Compare every file with its recorded sha256. Raises IntegrityError naming the first."""
        for name, expected in self.files.items():
            path = self.root / name
            if not path.is_file():
                raise IntegrityError(f"{path}: listed in {MANIFEST} but missing")
            found = file_sha256(path)
            if found != expected:
                raise IntegrityError(
                    f"{path}: sha256 {found[:12]} is not the recorded {expected[:12]}",
                    "the file was changed or damaged; make it again",
                )

    @staticmethod
    def open(root: Path, *, check: bool = True) -> "Artifact":
        """Read the manifest of a folder and, with `check`, verify every file.

        Raises UsageError without a readable manifest, IntegrityError for a damaged file.
        """
        path = root / MANIFEST
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
            files = {str(k): str(v) for k, v in content["files"].items()}
            artifact = Artifact(
                root=root,
                format=content["format"],
                precision=content["precision"],
                files=files,
                made_by=content.get("made_by", {}),
                parent=content.get("parent", ""),
                facts=content.get("facts", {}),
            )
        except FileNotFoundError:
            raise UsageError(f"{root}: no {MANIFEST}, so not a finished step's folder") from None
        except (ValueError, KeyError, AttributeError, TypeError) as error:
            raise UsageError(f"{path}: not a manifest: {error}") from None
        for name in files:
            parts = PurePosixPath(name).parts
            if PurePosixPath(name).is_absolute() or ".." in parts:
                raise IntegrityError(f"{path}: {name!r} points outside its folder")
        if check:
            artifact.verify()
        return artifact

    @staticmethod
    def find(root: Path, key: str) -> "Artifact | None":
        """Return the whole artifact at `root` made with this key, or None if it must be made."""
        try:
            artifact = Artifact.open(root, check=False)
            if artifact.key != key:
                return None
            artifact.verify()
        except (UsageError, IntegrityError):
            return None
        return artifact


@dataclass
class Draft:
    """A folder being written; `seal` fields may be set until the block ends."""

    folder: Path
    format: str = "folder"
    precision: str = ""
    parent: str = ""
    facts: dict[str, Any] = field(default_factory=dict)


@contextmanager
def drafting(root: Path, made_by: Mapping[str, Any]) -> Iterator[Draft]:
    """Write a new artifact: yields a folder aside, then digests, fsyncs and renames it to `root`.

    Whatever was at `root` is replaced only at that moment; on an error nothing is left behind.
    """
    aside = root.with_name(f".{root.name}.draft")
    shutil.rmtree(aside, ignore_errors=True)
    try:
        aside.mkdir(parents=True)
        draft = Draft(aside)
        yield draft
        files = {name: file_sha256(aside / name) for name in _files_below(aside)}
        manifest = {
            "format": draft.format,
            "precision": draft.precision,
            "files": files,
            "digest": folder_digest(files),
            "made_by": dict(made_by),
            "parent": draft.parent,
            "facts": draft.facts,
        }
        write_atomic(aside / MANIFEST, json.dumps(manifest, indent=2, sort_keys=True) + "\n")
        for name in files:
            _sync(aside / name)
        _sync(aside)
        replaced = root.with_name(f".{root.name}.replaced")
        shutil.rmtree(replaced, ignore_errors=True)
        if root.exists():
            root.rename(replaced)
        aside.rename(root)
        _sync(root.parent)
        shutil.rmtree(replaced, ignore_errors=True)
    except OSError as error:
        raise out_of_disk(error, root) from error
    finally:
        shutil.rmtree(aside, ignore_errors=True)
