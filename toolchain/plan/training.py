"""The training of a plan: stages with their terms bound, fine-tuning, the fair baseline."""

import importlib.util
import math
from dataclasses import replace

from toolchain import hardware
from toolchain.data.sources import TaskData
from toolchain.distill.compose import Composition, compose
from toolchain.distill.term import BoundTerm, bind
from toolchain.errors import UsageError
from toolchain.models.checkpoint import Checkpoint
from toolchain.plan.types import StagePlan
from toolchain.recipe import Recipe, StageTraining
from toolchain.spec import ModelSpec

__all__ = ["baseline_run", "finetuning", "precision", "stage_plans"]


def stage_plans(
    recipe: Recipe,
    composition: Composition,
    student: ModelSpec,
    teacher: ModelSpec,
    task: TaskData,
    raw: tuple[str, ...],
    reasons: list[str],
) -> tuple[StagePlan, ...]:
    """Return the stages in order, each term bound to both models. Raises UsageError."""
    wanted = dict(composition.stages)
    if "general" in wanted and not raw:
        del wanted["general"]
        reasons.append("stage general is left out: it needs raw text (data.raw)")
    if raw and "general" not in wanted:
        raise UsageError(
            f"data.raw is given, but method {composition.text!r} has no general stage to read it",
            "drop data.raw, or use a method with a general stage such as tinybert",
        )
    if "pred" not in wanted:
        wanted["pred"] = compose("finetune", {}).stages["pred"]
        reasons.append(f"method {composition.text!r} trains no head: a stage on labels follows")
    for name in recipe.stages:
        if name not in wanted:
            raise UsageError(
                f"stages.{name} is set, but the method {composition.text!r} runs "
                f"{', '.join(wanted)}"
            )
    return tuple(
        _stage(
            recipe,
            name,
            tuple(bind(term, student, teacher) for term in terms),
            recipe.stages.get(name, StageTraining()),
            rows=len(raw) if name == "general" else len(task.train),
            raw=name == "general",
            keep_best=name == "pred",
        )
        for name, terms in wanted.items()
    )


def _stage(
    recipe: Recipe,
    name: str,
    terms: tuple[BoundTerm, ...],
    own: StageTraining,
    *,
    rows: int,
    raw: bool = False,
    keep_best: bool = True,
) -> StagePlan:
    train = recipe.train
    batch = own.batch_size or train.batch_size
    epochs = own.epochs or train.epochs
    steps = max(1, math.ceil(epochs * math.ceil(rows / batch)))
    return StagePlan(
        name=name,
        terms=terms,
        steps=min(steps, recipe.max_steps or steps),
        batch_size=batch,
        lr=own.lr or train.lr,
        warmup=train.warmup if own.warmup is None else own.warmup,
        raw=raw,
        keep_best=keep_best,
    )


def _label_terms(student: ModelSpec, teacher: ModelSpec) -> tuple[BoundTerm, ...]:
    terms = compose("finetune", {}).stages["pred"]
    return tuple(bind(term, student, teacher) for term in terms)


def finetuning(
    recipe: Recipe,
    teacher: Checkpoint,
    spec: ModelSpec,
    task: TaskData,
    reasons: list[str],
) -> StagePlan | None:
    """Return how a bare encoder is fine-tuned first; None for a teacher with a head."""
    asked = recipe.finetune.model_dump(exclude_none=True)
    if teacher.has_head:
        if asked:
            raise UsageError(
                f"finetune.{next(iter(asked))} is set, but the teacher already has a head",
                "drop it, or give the bare encoder as the teacher",
            )
        return None
    reasons.append("the teacher is a bare encoder: it is fine-tuned on the task first")
    return _stage(
        recipe, "finetune", _label_terms(spec, spec), recipe.finetune, rows=len(task.train)
    )


def baseline_run(
    recipe: Recipe, stages: tuple[StagePlan, ...], student: ModelSpec, teacher: ModelSpec
) -> StagePlan:
    """Return the fair baseline: the same number of steps on labels alone."""
    last: StagePlan = stages[-1]
    return replace(
        last,
        name="baseline",
        terms=_label_terms(student, teacher),
        steps=min(sum(s.steps for s in stages), recipe.max_steps or 1 << 62),
    )


def precision(recipe: Recipe, reasons: list[str]) -> bool:
    """Return whether to train in bf16. Raises UsageError where that was asked in vain."""
    if recipe.train.tensorboard and importlib.util.find_spec("tensorboard") is None:
        raise UsageError(
            "train.tensorboard is set, but tensorboard is not installed",
            "pip install 'toolchain[tensorboard]'",
        )
    reason = hardware.bf16_reason()
    if recipe.train.precision == "fp32":
        return False
    if recipe.train.precision == "bf16" and reason is None:
        raise UsageError(
            "train.precision is bf16, but neither the CPU nor a GPU here computes in it",
            "use auto or fp32",
        )
    reasons.append(
        f"training in bf16, losses in fp32: {reason}"
        if reason
        else "training in fp32: no bf16 here"
    )
    return reason is not None
