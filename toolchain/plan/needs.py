"""What a plan needs of the machine: token lengths, memory, disk; refused when it has not."""

import shutil
from pathlib import Path

from toolchain import estimate, hardware
from toolchain.data.sources import TaskData
from toolchain.errors import ResourceError, UsageError
from toolchain.estimate import Estimate
from toolchain.models.checkpoint import Checkpoint
from toolchain.plan.types import Plan
from toolchain.recipe import Recipe

__all__ = ["check_resources", "estimated", "token_lengths"]


def token_lengths(recipe: Recipe, teacher: Checkpoint, task: TaskData) -> tuple[int, float]:
    """Return the limit and an estimated mean of tokens per row. Raises UsageError."""
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


def estimated(plan: Plan) -> Estimate:
    """Return what the plan needs of memory and disk, as estimates."""
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
