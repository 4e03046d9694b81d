"""Recipe to Plan: every name, fit and requirement is checked here, before any weight is loaded.

A plan is everything a run will do, with the reason for each choice it made by itself. Nothing
after it may refuse for a cause that could have been seen from configuration, headers and data.
"""

import math
import shutil
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from toolchain import estimate, hardware
from toolchain.artifact import digest_of
from toolchain.data.sources import TaskData, load_raw, load_task
from toolchain.distill.compose import Composition, compose
from toolchain.distill.term import BoundTerm, bind
from toolchain.errors import ResourceError, UsageError
from toolchain.estimate import Estimate
from toolchain.layermap import LayerMap
from toolchain.models.checkpoint import Checkpoint, inspect
from toolchain.models.initialise import Init, copied_layers
from toolchain.recipe import Recipe, StageTraining, StudentShape
from toolchain.spec import ModelSpec
from toolchain.target import Target, load_target

__all__ = ["Plan", "StagePlan", "make_plan", "probed"]


@dataclass(frozen=True, kw_only=True)
class StagePlan:
    """One stage of training with everything fixed; `raw` stages read unlabelled text."""

    name: str
    terms: tuple[BoundTerm, ...]
    steps: int
    batch_size: int
    lr: float
    warmup: float
    raw: bool = False
    keep_best: bool = True

    @property
    def needs_teacher(self) -> bool:
        """Whether any term reads the teacher."""
        return any(bound.requests("teacher") for bound in self.terms)

    def as_json(self) -> dict[str, Any]:
        """Return what decides the outcome, for digests and reports."""
        return {
            "name": self.name,
            "terms": [str(bound) for bound in self.terms],
            "steps": self.steps,
            "batch_size": self.batch_size,
            "lr": self.lr,
            "warmup": self.warmup,
            "raw": self.raw,
        }


@dataclass(frozen=True, kw_only=True)
class Plan:
    """A whole run, resolved. `reasons` are sentences a person should read before it starts."""

    recipe: Recipe
    teacher: Checkpoint
    start: Checkpoint | None
    task: TaskData
    raw: tuple[str, ...]
    raw_digest: str
    teacher_spec: ModelSpec
    student: ModelSpec
    init: Init
    copied: LayerMap
    finetune: StagePlan | None
    stages: tuple[StagePlan, ...]
    baseline: StagePlan | None
    targets: tuple[Target, ...]
    bf16: bool
    train_threads: int
    bench_threads: int
    max_tokens: int
    mean_tokens: float
    estimate: Estimate
    reasons: tuple[str, ...]

    @property
    def recipe_digest(self) -> str:
        """Digest of the resolved recipe."""
        return digest_of(self.recipe.model_dump(mode="json"))

    def as_json(self) -> dict[str, Any]:
        """Return the plan as `--dry-run --json` prints it and the report shows it."""
        return {
            "teacher": {
                "source": self.teacher.source,
                "shape": str(self.teacher_spec),
                "parameters": self.teacher_spec.params(),
                "has_head": self.teacher.has_head,
                "digest": self.teacher.digest,
            },
            "student": {"shape": str(self.student), "parameters": self.student.params()},
            "init": self.init,
            "layer_map": str(self.copied),
            "method": self.recipe.method,
            "finetune": self.finetune.as_json() if self.finetune else None,
            "stages": [stage.as_json() for stage in self.stages],
            "baseline": self.baseline.as_json() if self.baseline else None,
            "targets": [target.name for target in self.targets],
            "precision": "bf16" if self.bf16 else "fp32",
            "threads": {"training": self.train_threads, "benchmark": self.bench_threads},
            "tokens": {"limit": self.max_tokens, "mean": round(self.mean_tokens, 1)},
            "estimate": {
                "memory_bytes": self.estimate.memory_bytes,
                "disk_bytes": self.estimate.disk_bytes,
                "seconds": self.estimate.seconds,
            },
            "reasons": list(self.reasons),
        }


def make_plan(recipe: Recipe, output: Path) -> Plan:
    """Resolve a recipe. Raises UsageError (2) for what cannot be done, ResourceError (5) for what
    would not fit; nothing is written.
    """
    reasons: list[str] = []
    targets = tuple(load_target(name) for name in recipe.targets)
    _check_targets(recipe, targets)
    composition = None if recipe.method == "auto" else compose(recipe.method, recipe.method_options)
    if composition is None and recipe.method_options:
        raise UsageError("method_options needs a method", "name the method they belong to")
    teacher = inspect(recipe.teacher)
    task = load_task(
        recipe.data.path,
        columns=recipe.data.columns,
        teacher_labels=teacher.labels if teacher.has_head else None,
    )
    reasons += task.notes
    teacher_spec = replace(teacher.spec, num_labels=len(task.labels))
    raw, raw_digest = load_raw(recipe.data.raw) if recipe.data.raw else ((), "")
    start = inspect(recipe.student.path) if recipe.student.path else None
    student = _student_spec(recipe, start, teacher_spec, reasons)
    if composition is None:
        composition = _default_method(student, teacher_spec, reasons)
        recipe = recipe.model_copy(update={"method": composition.text})
    reasons += composition.notes
    init: Init = "given" if start else _init(recipe, student, teacher_spec, composition, reasons)
    stages = _stages(recipe, composition, student, teacher_spec, task, raw, reasons)
    bf16 = _precision(recipe, reasons)
    max_tokens, mean_tokens = _tokens(recipe, teacher, task)
    cores = hardware.cores()
    plan = Plan(
        recipe=_resolved(recipe, student, init),
        teacher=teacher,
        start=start,
        task=task,
        raw=raw,
        raw_digest=raw_digest,
        teacher_spec=teacher_spec,
        student=student,
        init=init,
        copied=copied_layers(init, student.layers, teacher_spec.layers),
        finetune=_finetune(recipe, teacher, teacher_spec, task, reasons),
        stages=stages,
        baseline=_baseline(recipe, stages, student, teacher_spec) if recipe.baseline else None,
        targets=targets,
        bf16=bf16,
        train_threads=recipe.threads or cores,
        bench_threads=recipe.threads or 1,
        max_tokens=max_tokens,
        mean_tokens=mean_tokens,
        estimate=Estimate(memory_bytes=0, disk_bytes=0),
        reasons=tuple(reasons),
    )
    plan = replace(plan, estimate=_estimate(plan))
    _check_resources(plan, output)
    return plan


def probed(plan: Plan) -> Plan:
    """Return the plan with its training time estimated from this machine's own speed."""
    stages = [
        (s.steps, s.batch_size, plan.teacher_spec if s.needs_teacher else None, plan.student)
        for s in (*plan.stages, *((plan.baseline,) if plan.baseline else ()))
    ]
    if plan.finetune:
        own = plan.finetune
        stages.append((own.steps, own.batch_size, None, plan.teacher_spec))
    rate = hardware.flops_per_s(bf16=plan.bf16, threads=plan.train_threads)
    seconds = estimate.seconds(stages, tokens=plan.mean_tokens, flops_per_s=rate)
    return replace(plan, estimate=replace(plan.estimate, seconds=seconds))


def _check_targets(recipe: Recipe, targets: tuple[Target, ...]) -> None:
    measured = [target.name for target in targets if target.fidelity == "measured"]
    if recipe.gates.latency_ms is not None and not measured:
        raise UsageError(
            f"a latency of {recipe.gates.latency_ms:g} ms was asked for, but nothing can be "
            f"measured on {', '.join(target.name for target in targets)} from here",
            "add --target host to hold the limit against this machine, or drop --latency",
        )
    for target in targets:
        if not set(target.accepts.precisions) & set(recipe.precisions):
            raise UsageError(
                f"target {target.name} takes {', '.join(target.accepts.precisions)}, the recipe "
                f"makes {', '.join(recipe.precisions)}"
            )


def _student_spec(
    recipe: Recipe, start: Checkpoint | None, teacher: ModelSpec, reasons: list[str]
) -> ModelSpec:
    shape = recipe.student
    if start is not None:
        if start.spec.num_labels != teacher.num_labels or start.spec.vocab != teacher.vocab:
            raise UsageError(
                f"student {start.source}: {start.spec.num_labels} classes and a vocabulary of "
                f"{start.spec.vocab}, the teacher has {teacher.num_labels} and {teacher.vocab}"
            )
        return start.spec
    layers = shape.layers
    if layers is None:
        layers = max(1, teacher.layers // 2)
        reasons.append(f"no --layers given: half of the teacher's {teacher.layers}, {layers}")
    spec = teacher.reshaped(layers=layers, width=shape.hidden, heads=shape.heads, ffn=shape.ffn)
    problem = spec.problem()
    if problem:
        raise UsageError(f"student: {problem}")
    if spec.params() > teacher.params():
        raise UsageError(
            f"student: {spec} has {spec.params():,} parameters, more than the teacher's "
            f"{teacher.params():,}",
            "give it fewer layers or a smaller width",
        )
    return spec


def _default_method(student: ModelSpec, teacher: ModelSpec, reasons: list[str]) -> Composition:
    if student.width == teacher.width:
        text, why = "kd", "equal widths: whole teacher layers are copied, predictions matched"
    else:
        text, why = (
            "kd+minilm_v2",
            "widths differ, so no layer can be copied: relations first, then predictions",
        )
    reasons.append(f"method {text}: {why}")
    return compose(text, {})


def _init(
    recipe: Recipe,
    student: ModelSpec,
    teacher: ModelSpec,
    composition: Composition,
    reasons: list[str],
) -> Init:
    asked = recipe.student.init
    same = student.width == teacher.width and student.ffn == teacher.ffn
    shapes = (
        f"the student is {student.width} wide (ffn {student.ffn}), "
        f"the teacher {teacher.width} (ffn {teacher.ffn})"
    )
    if asked == "random":
        return "random"
    if not same and asked != "auto":
        raise UsageError(
            f"student.init {asked} copies whole layers, but {shapes}",
            "cutting layers to a smaller width is as bad as a random start; give equal widths "
            "or leave init to auto",
        )
    if not same:
        if not {"general", "inter"} & set(composition.stages):
            raise UsageError(
                f"method {composition.text!r} needs a student that starts from the teacher, "
                f"but {shapes}, so no layer can be copied",
                "add +minilm_v2 (relations need no equal widths), or set student.init=random",
            )
        reasons.append(f"init random: {shapes}, and cut layers are as bad as random ones")
        return "random"
    if student.layers > teacher.layers:
        raise UsageError(
            f"the student has {student.layers} layers, the teacher only {teacher.layers} to copy",
            "give it fewer layers, or set student.init=random",
        )
    if asked != "auto":
        return asked
    # Lower layers serve a task stage best, spread ones an intermediate stage (methods.md 6.5).
    init: Init = (
        "teacher_uniform" if {"general", "inter"} & set(composition.stages) else "teacher_first_k"
    )
    layers = copied_layers(init, student.layers, teacher.layers)
    why = (
        "an intermediate stage matches layers spread over the teacher"
        if init == "teacher_uniform"
        else "with a task stage alone the teacher's lower layers serve best"
    )
    reasons.append(f"init {init} ({layers}): equal widths, and {why}")
    return init


def _stages(
    recipe: Recipe,
    composition: Composition,
    student: ModelSpec,
    teacher: ModelSpec,
    task: TaskData,
    raw: tuple[str, ...],
    reasons: list[str],
) -> tuple[StagePlan, ...]:
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


def _finetune(
    recipe: Recipe,
    teacher: Checkpoint,
    spec: ModelSpec,
    task: TaskData,
    reasons: list[str],
) -> StagePlan | None:
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


def _baseline(
    recipe: Recipe, stages: tuple[StagePlan, ...], student: ModelSpec, teacher: ModelSpec
) -> StagePlan:
    last: StagePlan = stages[-1]
    return replace(
        last,
        name="baseline",
        terms=_label_terms(student, teacher),
        steps=min(sum(s.steps for s in stages), recipe.max_steps or 1 << 62),
    )


def _precision(recipe: Recipe, reasons: list[str]) -> bool:
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


def _tokens(recipe: Recipe, teacher: Checkpoint, task: TaskData) -> tuple[int, float]:
    limit = recipe.data.max_tokens or teacher.spec.max_tokens
    if limit > teacher.spec.max_tokens:
        raise UsageError(
            f"data.max_tokens is {limit}, the teacher has {teacher.spec.max_tokens} positions"
        )
    sample = range(0, len(task.train), max(1, len(task.train) // 1000))
    words = 0
    for i in sample:
        second = task.train.texts_b[i] if task.train.texts_b else ""
        words += len(task.train.texts[i].split()) + len(second.split())
    # About 1.3 word pieces per word, and the special tokens.
    return limit, min(float(limit), 1.3 * words / len(sample) + 2)


def _estimate(plan: Plan) -> Estimate:
    longest = min(plan.max_tokens, round(4 * plan.mean_tokens))
    batch = max(stage.batch_size for stage in plan.stages)
    memory = estimate.training_bytes(
        plan.teacher_spec, plan.student, batch=batch, tokens=longest, bf16=plan.bf16
    )
    if plan.finetune:
        memory = max(
            memory,
            estimate.training_bytes(
                plan.teacher_spec, plan.teacher_spec, batch=batch, tokens=longest, bf16=plan.bf16
            ),
        )
    disk = estimate.disk_bytes(
        plan.teacher_spec,
        plan.student,
        finetunes=plan.finetune is not None,
        baseline=plan.baseline is not None,
        targets=len(plan.targets),
    )
    return Estimate(memory_bytes=memory, disk_bytes=disk)


def _check_resources(plan: Plan, output: Path) -> None:
    free = shutil.disk_usage(_existing(output)).free
    if plan.estimate.disk_bytes > free:
        raise ResourceError(
            f"{output}: the run needs about {plan.estimate.disk_bytes:,} bytes of disk "
            f"(estimated), {free:,} are free",
            "free some space or choose another output folder",
        )
    memory = hardware.memory_bytes()
    if plan.estimate.memory_bytes > memory:
        raise ResourceError(
            f"training needs about {plan.estimate.memory_bytes:,} bytes of memory (estimated), "
            f"this machine has {memory:,}",
            "lower train.batch_size or data.max_tokens, or choose a smaller student",
        )


def _existing(path: Path) -> Path:
    path = path.absolute()
    while not path.exists():
        path = path.parent
    return path


def _resolved(recipe: Recipe, student: ModelSpec, init: Init) -> Recipe:
    if recipe.student.path:
        shape = recipe.student.model_copy(update={"path": _absolute(recipe.student.path)})
        return _with_absolute_paths(recipe, shape)
    shape = recipe.student.model_copy(
        update={
            "layers": student.layers,
            "hidden": student.width,
            "heads": student.heads,
            "ffn": student.ffn,
            "init": init,
        }
    )
    return _with_absolute_paths(recipe, shape)


def _with_absolute_paths(recipe: Recipe, shape: StudentShape) -> Recipe:
    raw = _absolute(recipe.data.raw) if recipe.data.raw else None
    data = recipe.data.model_copy(update={"path": _absolute(recipe.data.path), "raw": raw})
    return recipe.model_copy(
        update={"student": shape, "teacher": _absolute(recipe.teacher), "data": data}
    )


def _absolute(source: str) -> str:
    return str(Path(source).resolve()) if Path(source).exists() else source
