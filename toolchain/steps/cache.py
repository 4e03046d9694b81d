"""The step that stores what terms read of the teachers on the rows a student will train on.

Rows are tokenised, the size is told and the disk asked before any weight is loaded. What is there
is kept: a killed step goes on, further rows are added, damaged shards are made anew.
"""

import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from toolchain import hardware
from toolchain.data.batching import Rows
from toolchain.data.sources import TaskData
from toolchain.distill.extract import Request, attn_scores
from toolchain.distill.teachers import TrainingModel
from toolchain.errors import ResourceError, UsageError
from toolchain.models.loading import load_model, load_tokenizer
from toolchain.plan import Plan
from toolchain.plan.cached import identity_of, wanted_by
from toolchain.progress import Progress
from toolchain.scale.filling import (
    Source,
    at_once,
    chunk_tokens,
    fill,
    lengths_of,
    missing_rows,
    online,
)
from toolchain.scale.knowledge import TOP_K, Keep, Lengths, Wanted, keeps_of
from toolchain.scale.ledger import CacheFolder, teacher_folder
from toolchain.scale.stream import streamed
from toolchain.spec import LABELLED
from toolchain.steps.training import TrainingSetup, raw_rows, split_rows

__all__ = ["Filled", "fill_caches"]

# Part of the GEMM rate a forward pass reaches (toolchain.estimate).
_REACHED = 0.6


@dataclass(frozen=True, kw_only=True)
class Filled:
    """One teacher's cache: what lies in it now, and how many rows were `added`."""

    folder: Path
    digest: str
    rows: int
    added: int
    tokens: int
    bytes: int
    keeps: tuple[Keep, ...]

    def as_json(self) -> dict[str, Any]:
        """Return what `--json` prints of it."""
        return {
            "folder": str(self.folder),
            "digest": self.digest,
            "rows": self.rows,
            "added": self.added,
            "tokens": self.tokens,
            "bytes": self.bytes,
            "bytes_per_token": round(self.bytes / max(1, self.tokens), 1),
            "keeps": {keep.name: keep.as_json() for keep in self.keeps},
        }


def fill_caches(plan: Plan, task: TaskData, output: Path, progress: Progress) -> list[Filled]:
    """Store what the plan's terms read of each teacher below the folder `output`.

    A second process waits for the first and then uses what it wrote. Raises UsageError where the
    folder is of something else, ResourceError where the disk is too small: what is finished stays.
    """
    torch.set_num_threads(plan.train_threads)
    return [
        _filled(plan, task, number, wanted, CacheFolder(teacher_folder(output, number)), progress)
        for number, wanted in enumerate(wanted_by(plan), 1)
    ]


def _filled(
    plan: Plan,
    task: TaskData,
    number: int,
    wanted: Wanted,
    folder: CacheFolder,
    progress: Progress,
) -> Filled:
    rows = _rows_of(plan, task, number)
    lengths = sum((lengths_of(own) for own in rows), Lengths(0, 0, 0, 0))
    if folder.exists:
        # What does not belong here need not wait for its turn to be told so.
        folder.require(identity_of(plan, number, _keeps(plan, number, wanted, folder, lengths)))
    added = 0
    with folder.writing(progress.say):
        # Again: another process may have begun it meanwhile.
        keeps = _keeps(plan, number, wanted, folder, lengths)
        folder.begin(identity_of(plan, number, keeps))
        for said in folder.drop_damaged():
            progress.say(f"{said}: made anew")
        source: Source | None = None
        for own in rows:
            missing = missing_rows(folder, own)
            if not missing.numbers:
                continue
            _announce(plan, number, keeps, lengths_of(own, missing.numbers), folder, progress)
            source = source or _source(plan, number, wanted, folder.root, progress)
            fill(
                folder,
                own,
                missing,
                source,
                batch_size=_batch(plan),
                progress=progress,
                at_once=_chunk(plan, number, wanted),
            )
            added += len(missing.numbers)
        shards = folder.shards()
    return Filled(
        folder=folder.root,
        digest=folder.identity().digest,
        rows=sum(s.rows for s in shards),
        added=added,
        tokens=sum(s.tokens for s in shards),
        bytes=sum(s.bytes for s in shards),
        keeps=keeps,
    )


def _rows_of(plan: Plan, task: TaskData, number: int) -> list[Rows]:
    """Return the rows a teacher reads: the task's, and those of raw text."""
    setup = TrainingSetup.of(plan, plan.teacher_specs[number - 1].tokenizer)
    tokenizer = load_tokenizer(plan.checkpoints[number - 1].root)
    reading = [stage for stage in plan.stages if stage.needs_teacher]
    found = []
    if not all(stage.raw for stage in reading):
        found.append(split_rows(tokenizer, task.train, task, setup))
    for stage in reading:
        if stage.raw:
            found.append(raw_rows(tokenizer, plan.raw, stage.task, setup))
    return found


def _keeps(
    plan: Plan, number: int, wanted: Wanted, folder: CacheFolder, lengths: Lengths
) -> tuple[Keep, ...]:
    """Return how everything is kept: as the folder does, where it was begun."""
    spec, placement = plan.teacher_specs[number - 1], plan.recipe.placement
    keeps = keeps_of(
        wanted,
        spec,
        lengths,
        precision=placement.states or "bf16",
        top_k=placement.top_k or TOP_K,
        sampled=placement.logits == "sampled",
    )
    if not folder.exists:
        return keeps
    held = folder.identity().keeps
    exact = {keep.name: keep for keep in held}
    # Which of two ways is smaller may change with the rows; how exact it is may not.
    other = [keep.name for keep in keeps if keep.name in exact and keep != exact[keep.name]]
    lacking = wanted.lacking(held)
    if lacking or other:
        raise UsageError(
            f"cache {folder.root}: it was begun for other terms or settings (differs in "
            f"{', '.join([*lacking, *other])})",
            "choose another folder",
        )
    return held


def _source(plan: Plan, number: int, wanted: Wanted, work: Path, progress: Progress) -> Source:
    """Return what gives the captures of a teacher: the one place that knows where it runs."""
    checkpoint, spec = plan.checkpoints[number - 1], plan.teacher_specs[number - 1]
    requests = _requests(wanted)
    if plan.streams:
        return at_once(
            streamed(checkpoint, spec.task, work=work), requests, bf16=plan.bf16, progress=progress
        )
    labels = dict(enumerate(plan.task.labels)) if spec.task in LABELLED else None
    model = load_model(checkpoint.root, spec.task, labels=labels, seed=plan.recipe.seed)
    teacher = TrainingModel(model=model, family=checkpoint.family, spec=spec)
    return online(teacher, requests, bf16=plan.bf16)


def _requests(wanted: Wanted) -> frozenset[Request]:
    return wanted.requests | {r for at in wanted.scored for r in attn_scores.requests(at)}


def _chunk(plan: Plan, number: int, wanted: Wanted) -> int | None:
    """Return the tokens a teacher is streamed over at once; None for one that is not streamed."""
    if not plan.streams:
        return None
    return chunk_tokens(plan.teacher_specs[number - 1], _requests(wanted))


def _announce(
    plan: Plan,
    number: int,
    keeps: Sequence[Keep],
    lengths: Lengths,
    folder: CacheFolder,
    progress: Progress,
) -> None:
    """Say what will be stored. Raises ResourceError where the disk has no room for it."""
    size = lengths.bytes(keeps)
    spec = plan.teacher_specs[number - 1]
    mean = max(1, round(lengths.tokens / lengths.rows))
    rate = hardware.flops_per_s(bf16=plan.bf16, threads=plan.train_threads)
    seconds = lengths.rows * 2 * spec.macs(mean) / (_REACHED * rate)
    progress.say(
        f"teacher {number}: {lengths.rows:,} rows of {lengths.tokens:,} tokens, "
        f"{size / lengths.tokens:,.0f} bytes a token, {size:,} bytes in all, about "
        f"{max(1, round(seconds)):,} s (estimated)"
    )
    progress.say(f"teacher {number}: keeps {', '.join(_said(keep) for keep in keeps)}")
    free = shutil.disk_usage(folder.root).free
    if size > free:
        raise ResourceError(
            f"{folder.root}: the cache needs {size:,} bytes of disk, {free:,} are free",
            "free some space, choose another folder, or keep less: placement.states=int8, a lower "
            "placement.top_k",
        )


def _said(keep: Keep) -> str:
    if keep.kind == "largest":
        return f"the {keep.width} largest of {keep.outcomes:,} logits and the rest"
    if keep.kind == "sampled":
        at = ", ".join(f"{tau:g}" for tau in keep.taus)
        return f"{keep.width} draws of {keep.outcomes:,} outcomes at tau {at}"
    size = f"{keep.bytes} bytes a {keep.unit}" if keep.unit != "pair" else f"{keep.width} heads"
    return f"{keep.name} ({keep.precision}, {size})"


def _batch(plan: Plan) -> int:
    return max(stage.batch_size for stage in plan.stages)
