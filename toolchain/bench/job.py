"""What passes between the benchmark and its worker: one specification, one result per load.

In the work folder lie `spec.json`, `feeds-<n>.npz`, `feeds-<n>-<contender>.npz` for contenders with
a tokenizer of their own (by their place) and, one after the other, `load-<n>.json`. A
result names the digest of the specification it answers, so a changed model, feed, version or
setting makes old results worthless, and an equal one keeps them.
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np

from toolchain.artifact import digest_of, file_sha256, folder_digest, write_atomic
from toolchain.bench.clock import Block
from toolchain.measurement import Load
from toolchain.runtimes.runtime import Feed

__all__ = [
    "Contender",
    "Job",
    "LoadResult",
    "feeds_digest",
    "feeds_path",
    "model_digest",
    "read_feeds",
    "read_result",
    "write_feeds",
    "write_result",
]

# Files beside the weights that say something about a model but do not change how it runs.
_NOTES = frozenset({".json", ".jsonl", ".yaml", ".yml", ".md", ".txt", ".log", ".html"})


@dataclass(frozen=True)
class Contender:
    """A model under the name it is reported by, and the runtime that opens its path."""

    name: str
    runtime: str
    path: Path


@dataclass(frozen=True, kw_only=True)
class Job:
    """Everything a series of measurements depends on.

    `models` and `feeds` are digests in the order of `contenders` and `loads`, `own` those of the
    feeds of contenders that answer others, by name; `made_with` names the processor and the
    versions.
    """

    contenders: tuple[Contender, ...]
    models: tuple[str, ...]
    loads: tuple[Load, ...]
    feeds: tuple[str, ...]
    threads: int
    provider: str
    rounds: int
    made_with: Mapping[str, str]
    own: Mapping[str, tuple[str, ...]] = field(default_factory=dict)

    def as_json(self) -> str:
        """Return it as the text of spec.json."""
        content = asdict(self)
        for contender in content["contenders"]:
            contender["path"] = str(contender["path"])
        return json.dumps(content, indent=2, sort_keys=True) + "\n"

    def own_feeds(self, folder: Path, number: int) -> dict[str, Path]:
        """Return where the feeds of load `number` lie that single contenders have, by name."""
        common = feeds_path(folder, number)
        return {
            c.name: common.with_stem(f"{common.stem}-{place}")
            for place, c in enumerate(self.contenders)
            if c.name in self.own
        }

    @property
    def digest(self) -> str:
        """Digest of the specification; results carry it."""
        return digest_of(json.loads(self.as_json()))

    @staticmethod
    def parse(text: str) -> "Job":
        """Read the text of spec.json."""
        content = json.loads(text)
        return Job(
            contenders=tuple(
                Contender(c["name"], c["runtime"], Path(c["path"])) for c in content["contenders"]
            ),
            models=tuple(content["models"]),
            loads=tuple(Load(**load) for load in content["loads"]),
            feeds=tuple(content["feeds"]),
            threads=content["threads"],
            provider=content["provider"],
            rounds=content["rounds"],
            made_with=content["made_with"],
            own={name: tuple(digests) for name, digests in content["own"].items()},
        )


@dataclass(frozen=True, kw_only=True)
class LoadResult:
    """The blocks of one load in the order they ran."""

    job: str
    timer_ns: int
    blocks: tuple[Block, ...]

    def rounds_of(self, contender: str) -> list[tuple[int, ...]]:
        """Return one contender's samples in nanoseconds, round by round."""
        mine = [block for block in self.blocks if block.contender == contender]
        return [block.samples_ns for block in sorted(mine, key=lambda block: block.round)]


def model_digest(path: Path) -> str:
    """Return the digest of the files a runtime reads: weights, graph, external data, config."""
    if path.is_dir():
        files = [
            file
            for file in path.iterdir()
            if file.is_file() and (file.suffix not in _NOTES or file.name == "config.json")
        ]
    else:
        files = [file for file in path.parent.glob(f"{path.name}*") if file.is_file()]
    return folder_digest({file.name: file_sha256(file) for file in files})


def feeds_digest(feeds: Sequence[Feed]) -> str:
    """Return the digest of the arrays: their names, shapes and values."""
    state = hashlib.sha256()
    for feed in feeds:
        for name, values in sorted(feed.items()):
            state.update(f"{name} {values.shape} {values.dtype}\n".encode())
            state.update(np.ascontiguousarray(values).tobytes())
    return state.hexdigest()


def feeds_path(folder: Path, number: int) -> Path:
    """Return where the feeds of load `number` lie."""
    return folder / f"feeds-{number}.npz"


def write_feeds(path: Path, feeds: Sequence[Feed]) -> None:
    """Write feeds as one .npz, arrays named `<index>/<input>`."""
    arrays = {
        f"{index}/{name}": values
        for index, feed in enumerate(feeds)
        for name, values in feed.items()
    }
    with path.open("wb") as file:
        np.savez(file, allow_pickle=False, **arrays)


def read_feeds(path: Path) -> list[Feed]:
    """Read what `write_feeds` wrote."""
    feeds: dict[int, dict[str, np.ndarray]] = {}
    with np.load(path, allow_pickle=False) as arrays:
        for key in arrays.files:
            index, _, name = key.partition("/")
            feeds.setdefault(int(index), {})[name] = arrays[key]
    return [feeds[index] for index in sorted(feeds)]


def _result_path(folder: Path, number: int) -> Path:
    return folder / f"load-{number}.json"


def write_result(folder: Path, number: int, result: LoadResult) -> None:
    """Write the result of load `number`, whole or not at all."""
    write_atomic(_result_path(folder, number), json.dumps(asdict(result)) + "\n")


def read_result(folder: Path, number: int, job: Job) -> LoadResult | None:
    """Return the finished result of load `number` of this very job, or None."""
    path = _result_path(folder, number)
    if not path.is_file():
        return None
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        blocks = tuple(
            Block(block["round"], block["contender"], tuple(block["samples_ns"]))
            for block in content["blocks"]
        )
        result = LoadResult(job=content["job"], timer_ns=content["timer_ns"], blocks=blocks)
    except (ValueError, KeyError, TypeError):
        return None
    return result if result.job == job.digest else None
