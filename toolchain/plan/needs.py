"""What a plan needs of the machine: token lengths, memory, disk; refused when it has not."""

import shutil
from collections.abc import Sequence
from pathlib import Path

from toolchain import estimate, hardware
from toolchain.data.sources import TaskData
from toolchain.distill.memory import stage_bytes
from toolchain.errors import ResourceError, UsageError
from toolchain.estimate import Estimate
from toolchain.plan.types import Plan, StagePlan
from toolchain.recipe import Recipe
from toolchain.spec import ModelSpec

__all__ = ["check_resources", "estimated", "token_lengths", "training_of"]


def token_lengths(
    recipe: Recipe, student: ModelSpec, teachers: Sequence[ModelSpec], task: TaskData
) -> tuple[int, float]:
    """Return the limit and an estimated mean of tokens per row of the student. Raises UsageError.

    Teachers with the student's tokenizer read the same rows, so none may have fewer positions.
    """
    sharing = [("the teacher", t) for t in teachers if t.tokenizer == student.tokenizer]
    name, narrowest = min((*sharing, ("the student", student)), key=lambda own: own[1].max_tokens)
    limit = recipe.data.max_tokens or narrowest.max_tokens
    if limit > narrowest.max_tokens:
        raise UsageError(f"data.max_tokens is {limit}, {name} has {narrowest.max_tokens} positions")
    sample = range(0, len(task.train), max(1, len(task.train) // 1000))
    words = 0
    for i in sample:
        second = task.train.texts_b[i] if task.train.texts_b else ""
        words += len(task.train.texts[i].split()) + len(second.split())
    # About 1.3 word pieces per word, and the special tokens.
    return limit, min(float(limit), 1.3 * words / len(sample) + 2)


def estimated(plan: Plan) -> Estimate:
    """Return what the plan needs of memory and disk, as estimates."""
    longest = min(plan.max_tokens, round(4 * plan.mean_tokens))
    batch = max(stage.batch_size for stage in plan.stages)
    memory = 0
    for guides, spec, stages in training_of(plan):
        teacher = guides[0] if guides else spec
        own = estimate.training_bytes(teacher, spec, batch=batch, tokens=longest, bf16=plan.bf16)
        loss = max(stage_bytes(s.terms, s.batch_size, longest) for s in stages)
        memory = max(memory, own + loss + sum(guide.bytes() for guide in guides[1:]))
    if plan.together:
        # All are trained at once: weights, gradients and two moments of each.
        memory += 4 * sum(other.spec.bytes() for other in plan.others)
    disk = estimate.disk_bytes(
        plan.teacher_spec,
        plan.student,
        finetunes=plan.finetune is not None,
        baseline=plan.baseline is not None,
        targets=len(plan.targets),
    )
    # What is kept, and the state of its training: weights, gradients' moments, the best weights.
    disk += sum(2 * a.spec.bytes() for a in plan.assistants)
    disk += sum(4 * other.spec.bytes() for other in plan.others if other.finetune)
    return Estimate(memory_bytes=memory, disk_bytes=disk)


def training_of(
    plan: Plan,
) -> list[tuple[tuple[ModelSpec, ...], ModelSpec, tuple[StagePlan, ...]]]:
    """Return everything that is trained: who teaches it, its shape, its stages."""
    found: list[tuple[tuple[ModelSpec, ...], ModelSpec, tuple[StagePlan, ...]]] = []
    bare = ((plan.teacher_spec, plan.finetune), *((o.spec, o.finetune) for o in plan.others))
    found += [((), spec, (stage,)) for spec, stage in bare if stage]
    before: tuple[ModelSpec, ...] = ()
    for spec, stages in (
        *((a.spec, a.stages) for a in plan.assistants),
        (plan.student, plan.stages),
    ):
        behind = before[-1:] or plan.teacher_specs
        guides = (*plan.teacher_specs, *before) if plan.all_guides else behind
        # A teacher on disk takes neither memory nor time.
        found.append((() if plan.caches else guides, spec, stages))
        before = (*before, spec)
    if plan.baseline:
        found.append(((), plan.student, (plan.baseline,)))
    return found


def check_resources(plan: Plan, output: Path) -> None:
    """Raise ResourceError when the plan would not fit on this machine."""
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
