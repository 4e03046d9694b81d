"""Recipe to Plan: every name, fit and requirement is checked here, before any weight is loaded.

Nothing after it may refuse for a cause that could have been seen from configuration, headers and
data.
"""

from dataclasses import replace
from pathlib import Path

from toolchain import estimate, hardware
from toolchain.data.sources import load_raw, load_task
from toolchain.distill.compose import compose
from toolchain.errors import UsageError
from toolchain.estimate import Estimate
from toolchain.models.checkpoint import inspect
from toolchain.models.initialise import Init, copied_layers
from toolchain.plan.needs import check_resources, estimated, token_lengths
from toolchain.plan.student import default_method, initialisation, resolved, student_spec
from toolchain.plan.training import baseline_run, finetuning, precision, stage_plans
from toolchain.plan.types import Plan
from toolchain.recipe import Recipe
from toolchain.target import Target, load_target

__all__ = ["make_plan", "probed"]


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
    student = student_spec(recipe, start, teacher_spec, reasons)
    if composition is None:
        composition = default_method(student, teacher_spec, reasons)
        recipe = recipe.model_copy(update={"method": composition.text})
    reasons += composition.notes
    init: Init = (
        "given" if start else initialisation(recipe, student, teacher_spec, composition, reasons)
    )
    stages = stage_plans(recipe, composition, student, teacher_spec, task, raw, reasons)
    bf16 = precision(recipe, reasons)
    max_tokens, mean_tokens = token_lengths(recipe, teacher, task)
    cores = hardware.cores()
    plan = Plan(
        recipe=resolved(recipe, student, init),
        teacher=teacher,
        start=start,
        task=task,
        raw=raw,
        raw_digest=raw_digest,
        teacher_spec=teacher_spec,
        student=student,
        init=init,
        copied=copied_layers(init, student.layers, teacher_spec.layers),
        finetune=finetuning(recipe, teacher, teacher_spec, task, reasons),
        stages=stages,
        baseline=baseline_run(recipe, stages, student, teacher_spec) if recipe.baseline else None,
        targets=targets,
        bf16=bf16,
        train_threads=recipe.threads or cores,
        bench_threads=recipe.threads or 1,
        max_tokens=max_tokens,
        mean_tokens=mean_tokens,
        estimate=Estimate(memory_bytes=0, disk_bytes=0),
        reasons=tuple(reasons),
    )
    plan = replace(plan, estimate=estimated(plan))
    check_resources(plan, output)
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
