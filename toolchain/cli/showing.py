"""A plan as text, for `--dry-run` and before a run starts."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from toolchain.plan import Plan, StagePlan

__all__ = ["show_plan"]


def show_plan(plan: "Plan") -> str:
    """Return the plan, one fact a line."""
    task = plan.task
    test = f", test {len(task.test)}" if task.test else ""
    lines = [
        f"teacher   {plan.teacher.source}: {plan.teacher_spec}, "
        f"{plan.teacher_spec.params():,} parameters",
        f"student   {plan.student}, {plan.student.params():,} parameters; {_start(plan)}",
        f"data      {task.name}: {task.kind}, {len(task.labels)} classes, "
        f"train {len(task.train)}, dev {len(task.dev)}{test}; "
        f"about {plan.mean_tokens:.0f} tokens a row, at most {plan.max_tokens}",
        f"targets   {', '.join(target.name for target in plan.targets)}",
        f"method    {plan.recipe.method}",
    ]
    for stage in (plan.finetune, *plan.stages, plan.baseline):
        if stage is not None:
            lines += _stage(stage)
    need = plan.estimate
    time = "" if need.seconds is None else f", training {need.seconds / 60:.0f} min"
    lines.append(
        f"needs     memory {need.memory_bytes / 1e9:.1f} GB, disk {need.disk_bytes / 1e9:.1f} GB"
        f"{time} (estimated)"
    )
    lines += [f"because   {reason}" for reason in plan.reasons]
    return "\n".join(lines)


def _start(plan: "Plan") -> str:
    if plan.init == "given":
        return f"starts from {plan.recipe.student.path}"
    if plan.init == "random":
        return "starts at random"
    return f"starts from teacher layers {plan.copied}"


def _stage(stage: "StagePlan") -> list[str]:
    head = f"stage     {stage.name}: {stage.steps} steps of {stage.batch_size}, lr {stage.lr:g}"
    return [head, *(f"            {bound}" for bound in stage.terms)]
