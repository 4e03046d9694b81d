"""Quantisation-aware distillation in a plan: whether it may follow, how long it is, or why not."""

import math
from dataclasses import replace

from toolchain.distill.shapes import Unfit
from toolchain.distill.surgery import FakeInt8
from toolchain.distill.term import BoundTerm
from toolchain.distill.transforms import Project, PseudoHead
from toolchain.errors import ResourceError, UsageError
from toolchain.models.family import families
from toolchain.plan.needs import training_of
from toolchain.plan.task import rows_to_train
from toolchain.plan.types import AwarePlan, Plan, StagePlan
from toolchain.scale import processes
from toolchain.scale.budget import Job
from toolchain.scale.hardware import parse_hardware
from toolchain.scale.placing import resolve
from toolchain.spec import LANGUAGE

__all__ = ["INT8", "aware_stage", "with_aware"]

INT8 = "int8"

# Of the rate the student was trained with: it is to be kept, not to be made anew.
_RATE = 0.5


def with_aware(plan: Plan) -> Plan:
    """Return the plan with what follows where its int8 file misses a gate.

    Raises UsageError where it is to follow always, and cannot.
    """
    asked = plan.recipe.quantize
    if asked.aware == "never" or (asked.aware == "auto" and INT8 not in plan.recipe.precisions):
        return plan
    why = _why_not(plan)
    if why and asked.aware == "always":
        raise UsageError(
            f"quantize.aware is always, but {why}", "set it to auto or never, or change that"
        )
    if why:
        said = f"no quantisation-aware distillation, should int8 miss a gate: {why}"
        return replace(plan, reasons=(*plan.reasons, said))
    last = plan.stages[-1]
    per_epoch = math.ceil(rows_to_train(plan.recipe, plan.task, plan.student) / last.batch_size)
    steps = max(1, math.ceil(asked.epochs * per_epoch))
    aware = AwarePlan(
        always=asked.aware == "always",
        steps=min(steps, plan.recipe.max_steps or steps),
        lr=asked.lr or _RATE * last.lr,
    )
    when = "" if aware.always else "should the int8 file miss a gate, "
    said = (
        f"{when}the student is trained on for {aware.steps} steps, in fp32 and with the rounding "
        "of int8, and exported, quantised and verified again (quantize.aware)"
    )
    # Its weights, its fp32 file and its int8 file.
    disk = plan.estimate.disk_bytes + 2 * plan.student.bytes() + plan.student.bytes() // 3
    need = replace(plan.estimate, disk_bytes=disk)
    return replace(plan, aware=aware, estimate=need, reasons=(*plan.reasons, said))


def aware_stage(plan: Plan, rounding: FakeInt8) -> StagePlan:
    """Return the stage as it is trained: the last one's terms, on the task's own rows."""
    assert plan.aware is not None
    last = plan.stages[-1]
    return replace(
        last,
        name="aware",
        terms=_kept(last),
        steps=plan.aware.steps,
        lr=plan.aware.lr,
        extended=False,
        parts=replace(last.parts, surgery=rounding),
    )


def _kept(stage: StagePlan) -> tuple[BoundTerm, ...]:
    """Return the terms that need nothing that was learned with the student and is gone."""
    return tuple(
        bound
        for bound in stage.terms
        if not any(isinstance(t, Project | PseudoHead) for t in bound.transforms)
    )


def _why_not(plan: Plan) -> str:
    """Return why the student cannot be trained for its int8 file, or an empty string."""
    if INT8 not in plan.recipe.precisions:
        return f"the recipe makes {', '.join(plan.recipe.precisions)} and no int8 file"
    last, placed = plan.stages[-1], plan.placement
    try:
        FakeInt8().check(plan.student, plan.teacher_spec)
    except Unfit as unfit:
        return unfit.problem
    family = families.get(plan.student.family)
    if plan.student.parts.relative_rows:
        return f"the matrices of a {family.name} model read positions too, with another range"
    if plan.student.task in LANGUAGE and not family.head(plan.student.task).last:
        return f"the head of a {family.name} language model is no single matrix"
    if last.parts.surgery:
        return f"{last.parts.surgery.key} already changes the student's modules in stage pred"
    if last.parts.operators:
        return f"{last.parts.operators[0].key} makes the batches of stage pred"
    if last.parts.aggregation and last.parts.aggregation.learns:
        return f"what {last.parts.aggregation.key} learned of the teachers is gone by then"
    if not _kept(last):
        return "every term of stage pred learns a projection, which is gone by then"
    hidden = [b.name for b in last.terms if b.term.extract.kind in FakeInt8.hides]
    if hidden:
        return f"term {hidden[0]!r} multiplies by the head's own weights, past their rounding"
    pieces = {"zero1", "zero2", "zero3", "offload"} & {placed.student, placed.teacher}
    if pieces:
        return f"it needs whole models in one process, and the run places them in {pieces.pop()}"
    if processes.ranks() > 1:
        return f"it trains in one process, and this run has {processes.ranks()}"
    return _too_large(plan, last)


def _too_large(plan: Plan, last: StagePlan) -> str:
    """Return why the stage does not fit: it computes in fp32 what the others may do in bf16."""
    guides = next(guides for guides, _, own in training_of(plan) if own is plan.stages)
    job = Job(
        student=plan.student,
        teachers=guides if last.needs_teacher and not plan.streams else (),
        terms=_kept(last),
        batch=last.batch_size,
        tokens=min(plan.max_tokens, round(4 * plan.mean_tokens)),
        bf16=False,
    )
    hardware = parse_hardware(plan.recipe.placement.hardware)
    try:
        resolve(job, plan.recipe.placement, hardware)
    except (ResourceError, UsageError) as error:
        return f"in fp32 it does not fit: {error.message}"
    return ""
