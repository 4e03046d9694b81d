"""Who reads which tokens: models with equal tokenizers share rows, the others have their own."""

from collections.abc import Sequence
from dataclasses import replace

from toolchain.data.sources import TaskData
from toolchain.errors import UsageError
from toolchain.export.extensions import check_extensions
from toolchain.models.checkpoint import Checkpoint
from toolchain.models.tokenizers import reads_tokens_of
from toolchain.recipe import Recipe
from toolchain.spec import LANGUAGE, SEQUENCE, ModelSpec

__all__ = ["check_inside", "one_text_per_row", "with_tokenizers"]


def with_tokenizers(checkpoints: Sequence[Checkpoint]) -> tuple[Checkpoint, ...]:
    """Return the checkpoints with their tokenizers named, each by the first one that has it.

    A student with a part of a teacher's tokens comes after it and reads the teacher's.
    """
    named: list[Checkpoint] = []
    for own in checkpoints:
        equal = (c.spec.tokenizer for c in named if reads_tokens_of(own.root, c.root))
        named.append(replace(own, spec=replace(own.spec, tokenizer=next(equal, own.source))))
    return tuple(named)


def one_text_per_row(
    recipe: Recipe,
    task: TaskData,
    student: ModelSpec,
    teachers: Sequence[Checkpoint],
    reasons: list[str],
) -> Recipe:
    """Return the recipe with texts in rows of their own where a teacher reads other tokens.

    Blocks of full length hold other parts of the texts under each tokenizer. Raises UsageError
    where blocks are asked for.
    """
    apart = [c for c in teachers if c.spec.tokenizer != student.tokenizer]
    if not apart:
        return recipe
    if task.task == "qa":
        raise UsageError(
            f"teacher {apart[0].source} has another tokenizer than the student: it reads a text in "
            "other windows, and an answer stands at other tokens",
            "give a teacher with the student's tokenizer",
        )
    reasons += [
        f"teacher {c.source} has another tokenizer than the student: it reads the same texts in "
        "tokens of its own"
        for c in apart
    ]
    if recipe.data.pack:
        raise UsageError(
            "data.pack is true, but blocks of full length hold other parts of the texts for "
            f"{apart[0].source}, which has another tokenizer than the student",
            "drop data.pack: each text is then a row",
        )
    if task.task in LANGUAGE and task.train.texts_b is None and recipe.data.pack is None:
        reasons.append("each text is a row: full blocks would differ between the tokenizers")
        return recipe.model_copy(update={"data": recipe.data.model_copy(update={"pack": False})})
    return recipe


def check_inside(recipe: Recipe, task: TaskData) -> None:
    """Raise UsageError where a tokenizer in the graph is asked for and cannot be had at all."""
    if recipe.tokenizer == "beside":
        return
    if task.task not in SEQUENCE:
        raise UsageError(
            f"tokenizer is inside, but {task.task} answers token by token: its tokens are needed",
            "leave the tokenizer beside the model",
        )
    check_extensions()
