"""What a plan needs of the machine: token lengths, memory, disk; refused when it has not."""

import shutil
from collections.abc import Sequence
from pathlib import Path

from toolchain import estimate
from toolchain.data.sources import TaskData
from toolchain.errors import ResourceError, UsageError
from toolchain.estimate import Estimate
from toolchain.plan.types import Plan, StagePlan
from toolchain.recipe import Recipe
from toolchain.room import EXPORTING, check_room
from toolchain.scale.budget import Budget, Job, Placed, budget_of
from toolchain.scale.hardware import parse_hardware
from toolchain.scale.placing import barred, resolve
from toolchain.spec import ModelSpec

__all__ = ["budgeted", "check_resources", "estimated", "token_lengths", "training_of"]


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
    # One token predicts nothing; an encoder frames a text with two tokens, a pair with three.
    pair = task.train.texts_b is not None and task.task != "embed"
    least = 2 if student.causal else 5 if pair else 3
    if limit < least:
        raise UsageError(
            f"data.max_tokens is {limit}, which leaves no room for a text",
            f"allow {least} at least",
        )
    sample = range(0, len(task.train), max(1, len(task.train) // 1000))
    words = 0
    for i in sample:
        second = task.train.texts_b[i] if task.train.texts_b else ""
        words += len(task.train.texts[i].split()) + len(second.split())
    # About 1.3 word pieces per word, and the special tokens.
    return limit, min(float(limit), 1.3 * words / len(sample) + 2)


def budgeted(plan: Plan) -> Budget:
    """Return what the stage that needs most memory needs, placed as the recipe says.

    Raises ResourceError when it fits nowhere here, with the cheapest placement that would do.
    """
    hardware = parse_hardware(plan.recipe.placement.hardware)
    longest = min(plan.max_tokens, round(4 * plan.mean_tokens))
    jobs = [
        Job(
            student=spec,
            teachers=guides if stage.needs_teacher else (),
            terms=stage.terms,
            batch=stage.batch_size,
            tokens=longest,
            bf16=plan.bf16,
            # All bare teachers are trained at once.
            extra=tuple(o.spec for o in plan.others) if plan.together and not guides else (),
        )
        for guides, spec, stages in training_of(plan)
        for stage in stages
    ]
    bars = barred([stage.parts for stage in plan.stages])
    asked = plan.recipe.placement
    hardest = max(jobs, key=lambda job: budget_of(job, Placed(), hardware).rank_bytes)
    others = [job for job in jobs if job is not hardest]
    return resolve(hardest, asked, hardware, bars=bars, beside=others)


def estimated(plan: Plan, budget: Budget) -> Estimate:
    """Return what the plan needs of memory and disk, as estimates."""
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
    return Estimate(memory_bytes=budget.rank_bytes, disk_bytes=disk)


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
    """Raise ResourceError when disk has no room for the run, or memory none for its exports."""
    free = shutil.disk_usage(_existing(output)).free
    if plan.estimate.disk_bytes > free:
        raise ResourceError(
            f"{output}: the run needs about {plan.estimate.disk_bytes:,} bytes of disk "
            f"(estimated), {free:,} are free",
            "free some space or choose another output folder",
        )
    for name, spec in (("the teacher", plan.teacher_spec), ("the student", plan.student)):
        check_room(spec.bytes(), EXPORTING, f"exporting {name}")


def _existing(path: Path) -> Path:
    path = path.absolute()
    while not path.exists():
        path = path.parent
    return path
