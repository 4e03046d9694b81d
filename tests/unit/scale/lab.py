"""What tests of caches share: plans of short runs, filled folders, trainings with and without."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from tests.conftest import sentences
from toolchain.data.batching import Rows
from toolchain.distill.teachers import Readable, TrainingModel
from toolchain.distill.trainer import train
from toolchain.models.build import build_student
from toolchain.models.loading import load_model, load_tokenizer
from toolchain.plan import Plan, make_plan
from toolchain.progress import Null
from toolchain.recipe import load_recipe
from toolchain.scale.cached import CachedModel
from toolchain.scale.ledger import CacheFolder
from toolchain.steps.cache import Filled, fill_caches
from toolchain.steps.training import TrainingSetup, split_rows

STEPS = 3
FEW: dict[str, Any] = {"train": {"precision": "fp32", "batch_size": 4}}


def small_task(folder: Path, rows: int = 48) -> Path:
    """Write a task of a few rows."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, part in (("train", sentences(rows, seed=5)), ("dev", sentences(12, seed=6))):
        lines = ["text\tlabel", *(f"{text}\t{label}" for text, label in part)]
        (folder / f"{name}.tsv").write_text("\n".join(lines) + "\n", encoding="utf-8")
    (folder / "labels.txt").write_text("heat\nlight\nmusic\n", encoding="utf-8")
    return folder


def plan_of(teacher: Path, task: Path, method: str, *more: str, **options: Any) -> Plan:
    """Return the plan of a short run in fp32 with one thread."""
    values = {
        "teacher": str(teacher),
        "data": {"path": str(task)},
        "student": {"layers": 2},
        "method": method,
        "threads": 1,
        "baseline": False,
        "max_steps": STEPS,
        "train": {"precision": "fp32", "batch_size": 16, "evals": 1},
        **options,
    }
    return make_plan(load_recipe(None, values, list(more)), task / "nowhere")


def filled(plan: Plan, folder: Path) -> list[Filled]:
    """Fill a cache as the command does."""
    return fill_caches(plan, plan.task, folder, Null())


def contents(folder: CacheFolder) -> dict[str, bytes]:
    """Return the finished shards of a cache by their names."""
    return {shard.name: folder.path(shard).read_bytes() for shard in folder.shards()}


def rows_of(plan: Plan, teacher: Path) -> tuple[Rows, Rows]:
    """Return the rows of the plan's task for training and for dev."""
    setup = TrainingSetup.of(plan, plan.student.tokenizer)
    tokenizer = load_tokenizer(teacher)
    train_rows, dev = (
        split_rows(tokenizer, split, plan.task, setup) for split in (plan.task.train, plan.task.dev)
    )
    return train_rows, dev


def whole(plan: Plan) -> list[TrainingModel]:
    """Return the teachers as models that run."""
    labels = dict(enumerate(plan.task.labels))
    return [
        TrainingModel(
            model=load_model(c.root, spec.task, labels=labels or None, seed=0),
            family=c.family,
            spec=spec,
        )
        for c, spec in zip(plan.checkpoints, plan.teacher_specs, strict=True)
    ]


def cached(plan: Plan) -> list[CachedModel]:
    """Return the teachers as a plan with caches reads them."""
    return [
        CachedModel(folder=cache.folder, spec=spec)
        for cache, spec in zip(plan.caches, plan.teacher_specs, strict=True)
    ]


def losses(plan: Plan, teachers: Sequence[Readable], work: Path) -> list[float]:
    """Train the plan's student through its stages and return every step's loss."""
    rows, dev = rows_of(plan, plan.teacher.root)
    source = whole(plan)[0].model
    torch.manual_seed(0)
    init = plan.init if plan.init != "given" else "random"
    model = build_student(source, plan.teacher.family, plan.student, init, seed=0)
    student = TrainingModel(model=model, family=plan.teacher.family, spec=plan.student)
    setup = TrainingSetup.of(plan, plan.student.tokenizer)
    found = []
    for stage in plan.stages:
        done = train(
            student,
            teachers if stage.needs_teacher else [],
            stage.terms,
            stage.parts,
            rows,
            dev,
            setup.run(stage),
            work / stage.name,
            Null(),
        )
        found += [float(point["loss"]) for point in done.points]
    return found
