"""Steps that train: fine-tuning a bare encoder, distilling a student, the baseline beside it.

All three are lists of stages for the one loop. A finished stage of a killed step is restored from
its last checkpoint, so nothing is trained twice.
"""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import PreTrainedModel, PreTrainedTokenizerFast

from toolchain.artifact import Draft
from toolchain.data.batching import Rows, tokenize
from toolchain.data.sources import Split, TaskData
from toolchain.distill.trainer import StageRun, TrainingModel, train
from toolchain.export.tokenizer import save_tokenizer
from toolchain.models.family import Family
from toolchain.models.loading import load_classifier, load_tokenizer, save_classifier
from toolchain.plan import Plan, StagePlan
from toolchain.progress import Progress
from toolchain.spec import ModelSpec

__all__ = ["TrainingSetup", "split_rows", "train_stages"]


@dataclass(frozen=True, kw_only=True)
class TrainingSetup:
    """What all stages of a run share."""

    family: Family
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

    @staticmethod
    def of(plan: Plan, tensorboard: Path | None = None) -> "TrainingSetup":
        """Return the setup a plan asks for."""
        settings = plan.recipe.train
        return TrainingSetup(
            family=plan.teacher.family,
            bf16=plan.bf16,
            threads=plan.train_threads,
            seed=plan.recipe.seed,
            metric=plan.recipe.metric,
            max_tokens=plan.max_tokens,
            weight_decay=settings.weight_decay,
            clip=settings.clip,
            evals=settings.evals,
            checkpoint_seconds=settings.checkpoint_seconds,
            tensorboard=tensorboard if settings.tensorboard else None,
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
    teachers: Mapping[str, tuple[Path, ModelSpec]],
    stages: Sequence[StagePlan],
    task: TaskData,
    raw: Sequence[str],
    setup: TrainingSetup,
    work: Path,
    progress: Progress,
) -> None:
    """Train the model in folder `start` through `stages` and write it to the draft.

    `labels` gives a bare encoder its head; a general stage may read a bare teacher, which gets a
    `head` that nothing reads. `teachers` holds a folder and spec per stage name, for
    the stages that read one. The draft's facts record every stage.
    """
    torch.set_num_threads(setup.threads)
    tokenizer = load_tokenizer(start)
    rows = split_rows(tokenizer, task.train, setup.max_tokens)
    dev = split_rows(tokenizer, task.dev, setup.max_tokens)
    if rows.truncated:
        progress.say(f"{rows.truncated} of {len(rows)} rows are cut at {setup.max_tokens} tokens")
    model = load_classifier(start, labels=labels, seed=setup.seed)
    student = TrainingModel(model=model, family=setup.family, spec=spec)
    loaded: dict[Path, PreTrainedModel] = {}
    records: list[dict[str, Any]] = []
    for stage in stages:
        teacher = None
        if stage.needs_teacher:
            folder, teacher_spec = teachers[stage.name]
            if folder not in loaded:
                loaded[folder] = load_classifier(folder, labels=head, seed=setup.seed)
            teacher = TrainingModel(model=loaded[folder], family=setup.family, spec=teacher_spec)
        stage_rows = _raw_rows(tokenizer, raw, setup.max_tokens) if stage.raw else rows
        run = setup.run(stage)
        trained = train(
            student, teacher, stage.terms, stage_rows, dev, run, work / stage.name, progress
        )
        records.append(trained.as_json())
        if trained.best_metric is not None:
            progress.say(
                f"{stage.name}: best dev {setup.metric} {trained.best_metric:.4f} at step "
                f"{trained.best_step} of {run.steps}, {trained.samples_per_s:.0f} samples/s"
            )
    save_classifier(student.model, draft.folder)
    save_tokenizer(start, draft.folder)
    draft.format, draft.precision = "torch", "fp32"
    draft.facts.update(
        stages=records,
        parameters=sum(p.numel() for p in student.model.parameters()),
        rows=len(rows),
        truncated=rows.truncated,
    )


def split_rows(tokenizer: PreTrainedTokenizerFast, split: Split, max_tokens: int) -> Rows:
    """Tokenise one split of the task."""
    return tokenize(tokenizer, split.texts, split.texts_b, split.labels, max_tokens=max_tokens)


def _raw_rows(tokenizer: PreTrainedTokenizerFast, raw: Sequence[str], max_tokens: int) -> Rows:
    labels = np.zeros(len(raw), dtype=np.int64).tolist()
    return tokenize(tokenizer, raw, None, labels, max_tokens=max_tokens)
