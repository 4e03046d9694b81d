"""Whether the training rows can have copies, and which model says by what words are replaced."""

from collections.abc import Sequence

from toolchain.data.sources import TaskData
from toolchain.errors import UsageError
from toolchain.models.checkpoint import Checkpoint, inspect
from toolchain.plan.types import AugmentPlan
from toolchain.recipe import Recipe
from toolchain.spec import SEQUENCE

__all__ = ["augment_plan"]


def augment_plan(
    recipe: Recipe, teacher: Checkpoint, task: TaskData, reasons: list[str]
) -> AugmentPlan | None:
    """Return how rows are augmented, None where that was not asked for. Raises UsageError."""
    settings = recipe.data.augment
    if settings is None:
        return None
    if task.task not in SEQUENCE:
        raise UsageError(
            f"data.augment is set, but {task.train.file} is for {task.task}: a copy with other "
            "words has the label of its row only where a row has one",
            "drop data.augment",
        )
    found = teacher
    if settings.model is not None:
        found = inspect(settings.model, "data.augment.model:")
    if not found.lm_head or "mask_lm" not in found.family.heads:
        raise UsageError(
            f"data.augment needs a masked language model to ask for neighbours of words, and "
            f"{found.source} has no such head",
            "name one with data.augment.model=DIR",
        )
    copies, rows = settings.copies, len(task.train)
    words = _words(task.train.texts) + _words(task.train.texts_b or ())
    reasons.append(
        f"augmentation: {rows} training rows become {rows * (1 + copies)}; each word is replaced "
        f"with p {settings.p:g} by one of {settings.candidates} neighbours that {found.source} "
        f"finds, which takes it about {words} short passes"
    )
    return AugmentPlan(settings=settings, checkpoint=found)


def _words(texts: Sequence[str]) -> int:
    return sum(len(text.split()) for text in texts)
