"""The step that fine-tunes several bare teachers together behind one shared head."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import cast

import torch
from transformers import PreTrainedModel

from toolchain.artifact import Artifact, Draft, folder_digest
from toolchain.data.sources import TaskData
from toolchain.distill.operators.repeat import Repeat
from toolchain.distill.teachers import TrainingModel
from toolchain.distill.trainer import train
from toolchain.export.tokenizer import save_tokenizer
from toolchain.models.joint import JointModels
from toolchain.models.loading import load_model, load_tokenizer, save_model
from toolchain.plan import StagePlan
from toolchain.progress import Progress
from toolchain.steps.training import TeacherSource, TrainingSetup, task_rows

__all__ = ["finetune_together", "member"]


def finetune_together(
    draft: Draft,
    *,
    encoders: Sequence[TeacherSource],
    labels: Mapping[int, str],
    stage: StagePlan,
    task: TaskData,
    setup: TrainingSetup,
    work: Path,
    progress: Progress,
) -> None:
    """Train all encoders on the task at once, the head of the first being that of all.

    The draft gets one folder per teacher: 1, 2, ... The loss is the mean of their losses.
    """
    torch.set_num_threads(setup.threads)
    first = encoders[0]
    tokenizer = load_tokenizer(first.folder)
    rows, dev = task_rows(tokenizer, task, setup)
    models = [load_model(e.folder, e.spec.task, labels=labels, seed=setup.seed) for e in encoders]
    joint = JointModels(models, first.family, first.spec.task)
    trained = train(
        # The loop asks for a module that answers with logits, no more.
        TrainingModel(model=cast(PreTrainedModel, joint), family=first.family, spec=first.spec),
        (),
        stage.terms,
        replace(stage.parts, operators=(Repeat(len(models)),)),
        rows,
        dev,
        setup.run(stage),
        work / stage.name,
        progress,
    )
    for number, (model, encoder) in enumerate(zip(models, encoders, strict=True), 1):
        save_model(model, draft.folder / str(number))
        save_tokenizer(encoder.folder, draft.folder / str(number))
    draft.format, draft.precision = "torch", "fp32"
    draft.facts.update(stages=[trained.as_json()], rows=len(rows), truncated=rows.truncated)


def member(artifact: Artifact, number: int) -> tuple[Path, str]:
    """Return the folder of teacher `number` (from 1) in what the step wrote, and its digest."""
    prefix = f"{number}/"
    own = {
        name.removeprefix(prefix): sha256
        for name, sha256 in artifact.files.items()
        if name.startswith(prefix)
    }
    return artifact.root / str(number), folder_digest(own)
