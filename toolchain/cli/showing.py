"""A plan as text, for `--dry-run` and before a run starts."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from toolchain.data.sources import TaskData
    from toolchain.plan import AssistantPlan, AwarePlan, Plan, StagePlan
    from toolchain.scale.budget import Budget

__all__ = ["show_plan"]


def show_plan(plan: "Plan") -> str:
    """Return the plan, one fact a line."""
    task = plan.task
    test = f", test {len(task.test)}" if task.test else ""
    lines = [
        f"teacher   {plan.teacher.source}: {plan.teacher_spec}, "
        f"{plan.teacher_spec.params():,} parameters",
        *(
            f"teacher   {other.checkpoint.source}: {other.spec}, {other.spec.params():,} parameters"
            for other in plan.others
        ),
        *(
            f"assistant {a.spec}, {a.spec.params():,} parameters; {_begins(a)}, "
            f"{sum(stage.steps for stage in a.stages)} steps"
            for a in plan.assistants
        ),
        f"student   {plan.student}, {plan.student.params():,} parameters; {_start(plan)}",
        f"data      {task.name}: {_outputs(task)}, "
        f"train {len(task.train)}, dev {len(task.dev)}{test}; "
        f"about {plan.mean_tokens:.0f} tokens a row, at most {plan.max_tokens}",
        f"targets   {', '.join(target.name for target in plan.targets)}",
        f"method    {plan.recipe.method}",
    ]
    for stage in (plan.finetune, *plan.stages, plan.baseline):
        if stage is not None:
            lines += _stage(stage)
    if plan.aware:
        lines.append(_aware(plan.aware))
    need = plan.estimate
    time = "" if need.seconds is None else f", training {need.seconds / 60:.0f} min"
    lines.append(
        f"needs     memory {need.memory_bytes / 1e9:.1f} GB, disk {need.disk_bytes / 1e9:.1f} GB"
        f"{time} (estimated)"
    )
    if plan.budget:
        lines.append(f"memory    {_shares(plan.budget)}")
    lines += [f"because   {reason}" for reason in plan.reasons]
    return "\n".join(lines)


def _outputs(task: "TaskData") -> str:
    """Return what a model for the task answers, in a few words."""
    match task.task:
        case "classify":
            return f"{task.kind}, {len(task.labels)} classes"
        case "multi_label":
            return f"{task.kind}, {len(task.labels)} labels of which several may hold"
        case "regress":
            return f"{task.kind}, a score ({task.labels[0]})"
        case "tag":
            return f"words, {len(task.labels)} tags"
        case "qa":
            none = ", some without an answer" if task.unanswered else ""
            return f"questions and texts that hold their answers{none}"
        case "embed":
            return "texts, a vector each" + (", pairs scored" if task.dev.labels else "")
        case "causal_lm":
            return "prompts and answers" if task.kind == "pair" else "text, the next token"
        case "mask_lm":
            return "text, masked tokens"


def _shares(budget: "Budget") -> str:
    """Return where the bytes of one rank go at its fullest moment, the largest first."""
    index = ("loss", "update", "store").index(budget.fullest)
    found = sorted(
        ((s.at[index], s.name) for s in budget.shares if s.where == "rank" and s.at[index]),
        reverse=True,
    )
    parts = ", ".join(f"{name} {size / 1e9:.2f}" for size, name in found)
    ranks = f", each of {budget.hardware.ranks} ranks" if budget.hardware.ranks > 1 else ""
    return f"{budget.placed}{ranks}; at the {budget.fullest}, GB: {parts}"


def _start(plan: "Plan") -> str:
    return f"starts from {plan.recipe.student.path}" if plan.init == "given" else _begins(plan)


def _begins(model: "Plan | AssistantPlan") -> str:
    if model.init == "random":
        return "starts at random"
    source = f"assistant {model.source}" if model.source else "teacher"
    return f"starts from {source} layers {model.copied}"


def _aware(aware: "AwarePlan") -> str:
    time = "" if aware.seconds is None else f", {aware.seconds / 60:.0f} min (estimated)"
    when = "always" if aware.always else "only if int8 misses a gate"
    return f"aware     {when}: {aware.steps} steps more, lr {aware.lr:g}{time}"


def _stage(stage: "StagePlan") -> list[str]:
    head = f"stage     {stage.name}: {stage.steps} steps of {stage.batch_size}, lr {stage.lr:g}"
    return [head, *(f"            {bound}" for bound in stage.terms)]
