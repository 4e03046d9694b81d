"""Steps that train: fine-tuning a bare encoder, distilling a student, the baseline beside it.

All three are lists of stages for the one loop. A finished stage of a killed step is restored from
its last checkpoint, so nothing is trained twice.
"""

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from transformers import PreTrainedTokenizerFast

from toolchain.artifact import Draft
from toolchain.data.batching import Rows
from toolchain.data.sources import Split, TaskData
from toolchain.data.tokenizing import tokenize_raw, tokenize_split
from toolchain.distill.engine import Holding
from toolchain.distill.evaluate import logits_of_rows
from toolchain.distill.records import StageRun
from toolchain.distill.teachers import Readable, TrainingModel
from toolchain.distill.trainer import train
from toolchain.export.tokenizer import save_tokenizer
from toolchain.models.family import Family, families
from toolchain.models.heads import with_language_head
from toolchain.models.loading import load_model, load_tokenizer, save_model
from toolchain.models.vocabulary import read_vocabulary
from toolchain.plan import Plan, StagePlan
from toolchain.progress import Progress
from toolchain.recipe import Placement
from toolchain.scale import processes
from toolchain.scale.cached import CachedModel, check_holds
from toolchain.scale.placed import holding_of, sharded_teacher
from toolchain.spec import LABELLED, ModelSpec, Task

__all__ = [
    "TeacherSource",
    "TrainingSetup",
    "raw_rows",
    "split_rows",
    "task_rows",
    "train_stages",
]


@dataclass(frozen=True, kw_only=True)
class TeacherSource:
    """Where a teacher lies, and what it is; `max_tokens` is the most it reads of a row.

    One with a `cache` is read from there, and its weights are not loaded.
    """

    folder: Path
    family: Family
    spec: ModelSpec
    max_tokens: int
    cache: Path | None = None


@dataclass(frozen=True, kw_only=True)
class TrainingSetup:
    """What all stages of a run share."""

    bf16: bool
    threads: int
    seed: int
    metric: str
    max_tokens: int
    weight_decay: float
    clip: float
    evals: int
    checkpoint_seconds: float
    tensorboard: Path | None
    placement: Placement
    pack: bool | None = None

    @property
    def holding(self) -> Holding:
        """How students are held while they train."""
        return holding_of(self.placement.student)

    @staticmethod
    def of(plan: Plan, tokenizer: str, tensorboard: Path | None = None) -> "TrainingSetup":
        """Return the setup a plan asks for, to train a model with this tokenizer."""
        settings = plan.recipe.train
        return TrainingSetup(
            bf16=plan.bf16,
            # Processes share the machine; what they compute does not depend on it but for rounding.
            threads=max(1, plan.train_threads // processes.local_ranks()),
            seed=plan.recipe.seed,
            metric=plan.recipe.metric,
            max_tokens=plan.limit(tokenizer),
            weight_decay=settings.weight_decay,
            clip=settings.clip,
            evals=settings.evals,
            checkpoint_seconds=settings.checkpoint_seconds,
            tensorboard=tensorboard if settings.tensorboard else None,
            pack=plan.recipe.data.pack,
            placement=plan.placement,
        )

    def run(self, stage: StagePlan) -> StageRun:
        """Return the loop's settings for one stage."""
        # Stages see the data in different orders, yet each order follows from the recipe's seed.
        offset = int.from_bytes(hashlib.sha256(stage.name.encode()).digest()[:4], "big")
        return StageRun(
            name=stage.name,
            steps=stage.steps,
            batch_size=stage.batch_size,
            lr=stage.lr,
            warmup=stage.warmup,
            weight_decay=self.weight_decay,
            clip=self.clip,
            evals=self.evals,
            keep_best=stage.keep_best,
            bf16=self.bf16,
            seed=(self.seed + offset) % (1 << 31),
            metric=self.metric,
            checkpoint_seconds=self.checkpoint_seconds,
            tensorboard=self.tensorboard / stage.name if self.tensorboard else None,
        )


def train_stages(
    draft: Draft,
    *,
    start: Path,
    labels: Mapping[int, str] | None,
    head: Mapping[int, str],
    spec: ModelSpec,
    teachers: Mapping[str, Sequence[TeacherSource]],
    stages: Sequence[StagePlan],
    task: TaskData,
    raw: Sequence[str],
    setup: TrainingSetup,
    work: Path,
    progress: Progress,
) -> None:
    """Train the model in folder `start` through `stages` and write it to the draft.

    `labels` gives a bare encoder its head; a general stage may read a bare teacher, which gets a
    `head` that nothing reads. `teachers` holds those of every stage by its name; those with another
    tokenizer than the student's read the same texts in tokens of their own. A stage for another
    task than the student's gives it a language head for its time. The draft's facts record every
    stage.
    """
    torch.set_num_threads(setup.threads)
    asked = {s.name: tuple(teachers[s.name]) if s.needs_teacher else () for s in stages}
    guides = [source for stage in stages for source in asked[stage.name]]
    # Where the student has fewer tokens, rows are the teachers' and dev is its own.
    sharing = [source for source in guides if source.spec.tokenizer == spec.tokenizer]
    vocabulary = read_vocabulary(start) if sharing else None
    tokenizer = load_tokenizer(sharing[0].folder if vocabulary else start)
    rows, dev = task_rows(tokenizer, task, setup)
    if vocabulary:
        dev = split_rows(load_tokenizer(start), task.dev, task, setup)
    if dev.task == "embed" and dev.similar is None and guides:
        dev = replace(dev, similar=_embedded(guides[0], task.dev, task, setup))
    apart = _rows_apart(spec, stages, asked, task, raw, setup)
    _check_caches(stages, asked, rows, lambda s: raw_rows(tokenizer, raw, s.task, setup), apart)
    if rows.truncated and rows.asked:
        progress.say(
            f"{rows.truncated} of {len(rows.asked.contexts)} questions are read in several windows "
            f"of {setup.max_tokens} tokens: {len(rows)} rows"
        )
    elif rows.truncated:
        progress.say(f"{rows.truncated} of {len(rows)} rows are cut at {setup.max_tokens} tokens")
    named = labels if spec.task in LABELLED else None
    model = load_model(start, spec.task, labels=named, seed=setup.seed)
    family = families.get(spec.family)
    student = TrainingModel(model=model, family=family, spec=spec, vocabulary=vocabulary)
    loaded: dict[tuple[Path, Task], Readable] = {}
    records: list[dict[str, Any]] = []
    before: list[Path] = []
    for stage in stages:
        read = [
            _loaded(source, stage.task, head, setup, loaded).reading(
                apart.get((source.spec.tokenizer, _texts_of(stage)))
            )
            for source in asked[stage.name]
        ]
        learner = student
        if stage.task != spec.task:
            learner = _with_language_head(student, stage.task, read, setup.seed)
        stage_rows = raw_rows(tokenizer, raw, stage.task, setup) if stage.raw else rows
        run = replace(setup.run(stage), before=tuple(before))
        trained = train(
            learner,
            read,
            stage.terms,
            stage.parts,
            stage_rows,
            dev,
            run,
            work / stage.name,
            progress,
            holding=setup.holding,
        )
        before.append(work / stage.name / "checkpoint.safetensors")
        records.append(trained.as_json())
        if trained.best_metric is not None:
            progress.say(
                f"{stage.name}: best dev {setup.metric} {trained.best_metric:.4f} at step "
                f"{trained.best_step} of {run.steps}, {trained.samples_per_s:.0f} samples/s"
            )
    if not processes.is_main():
        return
    save_model(student.model, draft.folder)
    save_tokenizer(start, draft.folder)
    draft.format, draft.precision = "torch", "fp32"
    draft.facts.update(
        stages=records,
        # Surgery may have made another shape of it.
        sizes=student.family.spec(student.model.config.to_dict()).sizes,
        parameters=sum(p.numel() for p in student.model.parameters()),
        rows=len(rows),
        truncated=rows.truncated,
    )


def task_rows(
    tokenizer: PreTrainedTokenizerFast, task: TaskData, setup: TrainingSetup
) -> tuple[Rows, Rows]:
    """Return the task's rows for training and for dev, tokenised."""
    rows, dev = (split_rows(tokenizer, split, task, setup) for split in (task.train, task.dev))
    return rows, dev


def split_rows(
    tokenizer: PreTrainedTokenizerFast, split: Split, task: TaskData, setup: TrainingSetup
) -> Rows:
    """Return the rows of one split, tokenised."""
    return tokenize_split(
        tokenizer,
        split,
        task,
        max_tokens=setup.max_tokens,
        seed=setup.seed,
        packed=setup.pack is not False,
    )


def _embedded(
    teacher: TeacherSource, split: Split, task: TaskData, setup: TrainingSetup
) -> NDArray[np.float32]:
    """Return a teacher's embeddings (R, D) of texts that nobody has scored, to judge by."""
    own = replace(setup, max_tokens=teacher.max_tokens)
    rows = split_rows(load_tokenizer(teacher.folder), split, task, own)
    return logits_of_rows(load_model(teacher.folder, "embed"), rows)


def _texts_of(stage: StagePlan) -> Task | None:
    """Return the task raw text is read for; None where a stage reads the task's own texts."""
    return stage.task if stage.raw else None


def _rows_apart(
    student: ModelSpec,
    stages: Sequence[StagePlan],
    asked: Mapping[str, Sequence[TeacherSource]],
    task: TaskData,
    raw: Sequence[str],
    setup: TrainingSetup,
) -> dict[tuple[str, Task | None], Rows]:
    """Return what teachers read that do not share the student's rows, once per tokenizer."""
    made: dict[tuple[str, Task | None], Rows] = {}
    for stage in stages:
        for source in asked[stage.name]:
            key = (source.spec.tokenizer, _texts_of(stage))
            if source.spec.tokenizer == student.tokenizer or key in made:
                continue
            tokenizer = load_tokenizer(source.folder)
            own = replace(setup, max_tokens=source.max_tokens)
            made[key] = (
                raw_rows(tokenizer, raw, stage.task, own)
                if stage.raw
                else split_rows(tokenizer, task.train, task, own)
            )
    return made


def _check_caches(
    stages: Sequence[StagePlan],
    asked: Mapping[str, Sequence[TeacherSource]],
    rows: Rows,
    of_raw: Callable[[StagePlan], Rows],
    apart: Mapping[tuple[str, Task | None], Rows],
) -> None:
    """Raise UsageError unless every cached teacher has all rows; IntegrityError for damage."""
    checked: set[tuple[Path, Task | None]] = set()
    for stage in stages:
        for source in asked[stage.name]:
            key = (source.cache, _texts_of(stage)) if source.cache else None
            if source.cache is None or key is None or key in checked:
                continue
            checked.add(key)
            own = apart.get((source.spec.tokenizer, _texts_of(stage)))
            check_holds(source.cache, own or (of_raw(stage) if stage.raw else rows))


def _loaded(
    source: TeacherSource,
    task: Task,
    head: Mapping[int, str],
    setup: TrainingSetup,
    loaded: dict[tuple[Path, Task], Readable],
) -> Readable:
    """Load a teacher once per head it is asked for with; one on disk is only named.

    One in pieces is loaded when it is opened.
    """
    if source.cache:
        return CachedModel(folder=source.cache, spec=replace(source.spec, task=task))
    key = (source.folder, task)
    if key not in loaded:
        labels = head if task in LABELLED else None
        spec = replace(source.spec, task=task)
        folder, family = source.folder, source.family
        sharded = sharded_teacher(
            setup.placement.teacher, folder, family, spec, labels=labels, seed=setup.seed
        )
        loaded[key] = sharded or TrainingModel(
            model=load_model(folder, task, labels=labels, seed=setup.seed),
            family=family,
            spec=spec,
        )
    return loaded[key]


def _with_language_head(
    student: TrainingModel, task: Task, teachers: Sequence[Readable], seed: int
) -> TrainingModel:
    # The head of a model with other tokens has other outcomes; one in pieces cannot be copied.
    kin = [
        teacher
        for teacher in teachers
        if isinstance(teacher, TrainingModel) and teacher.spec.tokenizer == student.spec.tokenizer
    ]
    source = kin[0].model if kin else None
    model, spec = with_language_head(
        student.model, student.family, student.spec, task, source=source, seed=seed
    )
    return replace(student, model=model, spec=spec)


def raw_rows(
    tokenizer: PreTrainedTokenizerFast, raw: Sequence[str], task: Task, setup: TrainingSetup
) -> Rows:
    """Return raw text, tokenised for a task."""
    return tokenize_raw(
        tokenizer,
        raw,
        task=task,  # type: ignore[arg-type]
        max_tokens=setup.max_tokens,
        seed=setup.seed,
        packed=bool(setup.pack),
    )
