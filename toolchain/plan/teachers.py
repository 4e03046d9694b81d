"""Several teachers: they must answer alike in form, and bare ones are fine-tuned first."""

from collections.abc import Sequence

from toolchain.data.sources import TaskData
from toolchain.distill.compose import Composition
from toolchain.errors import UsageError
from toolchain.models.checkpoint import Checkpoint
from toolchain.plan.task import for_task, ready
from toolchain.plan.training import finetuning
from toolchain.plan.types import StagePlan, TeacherPlan
from toolchain.recipe import Recipe, StageTraining
from toolchain.spec import ModelSpec

__all__ = ["check_alike", "further_teachers", "trained_together"]


def check_alike(teachers: Sequence[Checkpoint]) -> None:
    """Raise UsageError unless those with heads have one label space."""
    headed = [teacher for teacher in teachers if teacher.has_head]
    for other in headed[1:]:
        mine, theirs = (_classes(teacher) for teacher in (headed[0], other))
        if mine != theirs:
            raise UsageError(
                f"teachers {headed[0].source} and {other.source} have different labels: "
                f"{mine} and {theirs}",
                "name teachers of one task, with the same labels in the same order",
            )


def _classes(teacher: Checkpoint) -> str:
    names = list(teacher.labels.values()) if teacher.labels else [teacher.task]
    if names == [f"LABEL_{i}" for i in range(len(names))]:
        return f"{len(names)} without names"
    return ", ".join(names)


def further_teachers(
    recipe: Recipe,
    checkpoints: Sequence[Checkpoint],
    task: TaskData,
    reasons: list[str],
) -> tuple[StagePlan | None, tuple[TeacherPlan, ...]]:
    """Return how the first teacher is fine-tuned, and the further ones. Raises UsageError."""
    settings = recipe.finetune
    someone_bare = not all(ready(c, task) for c in checkpoints)
    plans = []
    for number, checkpoint in enumerate(checkpoints, 1):
        # Settings for fine-tuning are in vain only where nobody is fine-tuned.
        unused = someone_bare and ready(checkpoint, task)
        own = StageTraining() if unused else settings
        said: list[str] = []
        spec = for_task(checkpoint, task)
        stage = finetuning(
            recipe.model_copy(update={"finetune": own}), checkpoint, spec, task, said
        )
        if number == 1:
            reasons += said
        elif stage:
            reasons.append(f"teacher {number} is a bare encoder: it is fine-tuned on the task too")
        plans.append(TeacherPlan(checkpoint=checkpoint, spec=spec, finetune=stage))
    return plans[0].finetune, tuple(plans[1:])


def trained_together(
    composition: Composition,
    checkpoints: Sequence[Checkpoint],
    specs: Sequence[ModelSpec],
    task: TaskData,
    reasons: list[str],
) -> bool:
    """Return whether the teachers share a head while they are fine-tuned.

    Raises UsageError where the method wants that and the teachers' widths, families or tokenizers
    differ.
    """
    if not composition.finetunes_together or len(checkpoints) < 2:
        return False
    bare = [c for c in checkpoints if not ready(c, task)]
    if len(bare) < len(checkpoints):
        if bare:
            reasons.append("some teachers have heads: those without are fine-tuned each by itself")
        return False
    kinds = [(spec.family, spec.width) for spec in specs]
    for checkpoint, spec in zip(checkpoints, specs, strict=True):
        if (spec.family, spec.width) != kinds[0]:
            raise UsageError(
                f"method {composition.text!r} fine-tunes bare teachers together behind one head: "
                f"{checkpoints[0].source} is a {kinds[0][0]} of width {kinds[0][1]}, "
                f"{checkpoint.source} a {spec.family} of {spec.width}",
                "give encoders of one family and width, or teachers that have heads already "
                "(toolchain finetune)",
            )
    for checkpoint, spec in zip(checkpoints, specs, strict=True):
        if spec.tokenizer != specs[0].tokenizer:
            raise UsageError(
                f"method {composition.text!r} fine-tunes bare teachers together, on the same "
                f"tokens: {checkpoints[0].source} and {checkpoint.source} have different "
                "tokenizers",
                "give encoders with one tokenizer, or teachers that have heads already (toolchain "
                "finetune)",
            )
    reasons.append("the bare teachers are fine-tuned together behind one head")
    return True
