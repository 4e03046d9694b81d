"""Whether students can learn from texts without labels, and how many there are."""

from toolchain.data.sources import TaskData
from toolchain.data.unlabelled import Unlabelled, load_unlabelled
from toolchain.errors import UsageError
from toolchain.plan.types import Plan
from toolchain.recipe import Recipe
from toolchain.spec import SEQUENCE

__all__ = ["check_answerable", "unlabelled_rows"]

# Where the teacher lies in one piece, so that it can be asked before training.
_WHOLE = ("auto", "whole", "cached")


def unlabelled_rows(recipe: Recipe, task: TaskData, reasons: list[str]) -> Unlabelled | None:
    """Return the further texts, None where none were named. Raises UsageError."""
    source = recipe.data.unlabelled
    if source is None:
        return None
    if task.task not in SEQUENCE:
        raise UsageError(
            f"data.unlabelled is set, but {task.train.file} is for {task.task}: what a teacher "
            "says stands in for a label only where a row has one",
            "drop data.unlabelled",
        )
    further = load_unlabelled(source, task, recipe.data.columns)
    left = further.found - len(further)
    reasons.append(
        f"unlabelled: {len(further)} texts of {source} join the {len(task.train)} training rows, "
        "each with the teacher's answer for a label"
        + (f"; {left} more are known from the task's rows, or are there twice" if left else "")
    )
    return further


def check_answerable(plan: Plan) -> None:
    """Raise UsageError where texts need the answers of a teacher that is never whole."""
    if plan.unlabelled is None:
        return
    lies = "streamed" if plan.streams else plan.placement.teacher
    if lies not in _WHOLE:
        raise UsageError(
            f"data.unlabelled: the teacher is asked for labels before training, and does not lie "
            f"here whole (placement.teacher={lies})",
            "label the texts elsewhere and put them into the training file, or drop it",
        )
