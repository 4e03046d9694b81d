"""What the task asks of a teacher, and whether it can do it as it is."""

import math
from dataclasses import replace

from toolchain.data.sources import Split, TaskData
from toolchain.errors import UsageError
from toolchain.models.checkpoint import Checkpoint
from toolchain.recipe import Recipe
from toolchain.spec import LANGUAGE, ModelSpec, Task

__all__ = ["check_pack", "for_task", "language_task", "ready", "rows_to_train"]

# About as many word pieces a word has.
_PIECES = 1.3
# Tokens that frame a question and its context, and the part of a window that the next one shares.
_FRAME, _SHARED = 3, 3


def language_task(spec: ModelSpec) -> Task:
    """Return the language-modelling task of an encoder or a decoder."""
    return "causal_lm" if spec.causal else "mask_lm"


def ready(teacher: Checkpoint, task: TaskData) -> bool:
    """Return whether the teacher has a head for the task; else it is fine-tuned first."""
    if task.task == "embed":
        # Every encoder gives states, and how they are pooled is no training.
        return True
    return teacher.lm_head if task.task in LANGUAGE else teacher.has_head


def for_task(teacher: Checkpoint, task: TaskData) -> ModelSpec:
    """Return the teacher's shape with a head for the task. Raises UsageError for another task's."""
    where = f"teacher {teacher.source}"
    if task.task in LANGUAGE:
        fitting = language_task(teacher.spec)
        if task.task != fitting:
            raise UsageError(
                f"{where}: a {teacher.family.name} model is a {fitting}, the data are for "
                f"{task.task}",
                f"set data.task={fitting}, or choose another teacher",
            )
        return replace(teacher.spec, task=task.task, num_labels=0)
    if task.task == "embed":
        teacher.family.head("embed")
        return replace(teacher.spec, task="embed", num_labels=0)
    if teacher.has_head and teacher.task != task.task:
        raise UsageError(
            f"{where}: its head is for {teacher.task}, {task.train.file} is for {task.task}",
            "give a teacher for this task, or its bare encoder, which is fine-tuned first",
        )
    teacher.family.head(task.task)
    return replace(teacher.spec, task=task.task, num_labels=len(task.labels))


def check_pack(recipe: Recipe, task: TaskData) -> None:
    """Raise UsageError where blocks are asked for and no raw text is there to be cut into them."""
    raw = recipe.data.raw is not None or (task.task in LANGUAGE and task.train.texts_b is None)
    if recipe.data.pack and not raw:
        raise UsageError(
            f"data.pack is true, but {task.train.file} is no raw text: each of its rows is one",
            "drop it, or name raw text with data.raw",
        )


def rows_to_train(recipe: Recipe, task: TaskData, spec: ModelSpec) -> int:
    """Return the rows of an epoch; those of packed text, and windows, are estimated from words."""
    if task.task == "qa":
        return _windows(task.train, recipe.data.max_tokens or spec.max_tokens)
    packed = task.task in LANGUAGE and task.train.texts_b is None and recipe.data.pack is not False
    if not packed:
        return len(task.train)
    words = sum(len(text.split()) for text in task.train.texts)
    return max(1, math.ceil(_PIECES * words / (recipe.data.max_tokens or spec.max_tokens)))


def _windows(questions: Split, max_tokens: int) -> int:
    """Return about how many windows of so many tokens questions and their contexts make."""
    count = 0
    for question, context in zip(questions.texts, questions.texts_b or (), strict=True):
        asked, told = (_PIECES * len(text.split()) for text in (question, context))
        room = max(1, max_tokens - _FRAME)
        room = max(1, room - min(int(asked), room // 2))
        shared = room // _SHARED
        count += max(1, math.ceil((told - shared) / (room - shared)))
    return count
