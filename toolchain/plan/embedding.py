"""What a plan decides of embeddings: whether they are asked for, how texts are pooled, what judges.

They are learned from the teacher alone. Scores of pairs, where the data have them, only judge.
"""

from collections.abc import Iterable, Sequence
from typing import Literal

from toolchain.data.sources import TaskData
from toolchain.distill.compose import Composition
from toolchain.distill.stages import Stage
from toolchain.distill.term import Term
from toolchain.errors import UsageError
from toolchain.models.checkpoint import Checkpoint
from toolchain.models.sentence import Sentence
from toolchain.recipe import DataTask, Recipe
from toolchain.spec import ModelSpec

__all__ = ["asked_task", "check_metric", "learnable", "prepared", "sentence_of"]


def asked_task(recipe: Recipe, teacher: Checkpoint) -> Literal["auto"] | DataTask:
    """Return what the rows are for: a teacher of sentence-transformers says it, unless asked."""
    asked = recipe.data.task
    return "embed" if asked == "auto" and teacher.task == "embed" else asked


def prepared(
    recipe: Recipe, task: TaskData, teachers: Sequence[Checkpoint], reasons: list[str]
) -> Recipe:
    """Return the recipe with what the teacher's folder says of embeddings, and tell the user.

    Raises UsageError for a setting that means nothing here.
    """
    if task.task != "embed":
        if recipe.data.pooling != "auto":
            raise UsageError(
                f"data.pooling is {recipe.data.pooling}, but the task is {task.task}: nothing is "
                "pooled",
                "drop it, or set data.task=embed",
            )
        return recipe
    if recipe.finetune.model_dump(exclude_none=True):
        raise UsageError(
            "finetune is set, but a teacher of embeddings is used as it is",
            "drop it; train one with sentence-transformers, and give its folder",
        )
    if not task.dev.labels:
        reasons.append(
            "the data score no pairs of texts: a student is judged by how alike the teacher makes "
            "two texts of dev"
        )
    if recipe.baseline:
        reasons.append("no student on labels alone stands beside: embeddings have no labels")
    updates: dict[str, object] = {}
    for number, teacher in enumerate(teachers):
        sentence = sentence_of(recipe, teacher)
        normalised = "brought to length one" if sentence.normalize else "as long as they come"
        said = "" if teacher.sentence else " (its folder says nothing of embeddings)"
        reasons.append(
            f"teacher {teacher.source}: a text's embedding is {_WORDS[sentence.pooling]}, "
            f"{normalised}{said}"
        )
        if number == 0:
            updates["pooling"] = sentence.pooling
            limit = sentence.max_tokens
            if limit and recipe.data.max_tokens is None and limit < teacher.spec.max_tokens:
                updates["max_tokens"] = limit
                reasons.append(f"at most {limit} tokens of a text are read, as by the teacher")
    data = recipe.data.model_copy(update={**updates, "task": "embed"})
    return recipe.model_copy(update={"data": data, "baseline": False})


_WORDS = {
    "cls": "the last state of its first token",
    "max": "the largest of each feature over its tokens",
    "mean": "the mean of its tokens' last states",
}


def sentence_of(recipe: Recipe, teacher: Checkpoint) -> Sentence:
    """Return how a teacher's states become embeddings. Raises UsageError for a contradiction."""
    asked = recipe.data.pooling
    if teacher.sentence is None:
        return Sentence(pooling="mean" if asked == "auto" else asked)
    if asked not in ("auto", teacher.sentence.pooling):
        raise UsageError(
            f"data.pooling is {asked}, but teacher {teacher.source} was trained with "
            f"{teacher.sentence.pooling}",
            "drop data.pooling",
        )
    return teacher.sentence


def check_metric(recipe: Recipe, task: TaskData, student: ModelSpec, teacher: ModelSpec) -> None:
    """Raise UsageError for the mean cosine with the teacher where there is none to be had."""
    if task.task != "embed" or recipe.metric != "cosine":
        return
    if task.dev.labels:
        raise UsageError(
            f"metric cosine compares with the teacher's embeddings, but {task.dev.file} has scores "
            "of pairs to be compared with",
            "leave metric to auto for spearman",
        )
    if student.width != teacher.width:
        raise UsageError(
            f"metric cosine needs equal widths: the student has {student.width}, the teacher "
            f"{teacher.width}",
            "leave metric to auto for spearman, which compares similarities",
        )


def learnable(composition: Composition, reasons: list[str]) -> dict[Stage, tuple[Term, ...]]:
    """Return the stages without terms on labels. Raises UsageError where nothing is left."""
    text, stages = composition.text, composition.stages
    if composition.aggregation and composition.aggregation.needs_labels:
        raise UsageError(
            f"method {text!r} weighs teachers by labels, which embeddings have not",
            "use a method that weighs them equally, as embeddings does",
        )
    found = {
        name: tuple(t for t in terms if not (t.extract.is_gold or t.objective.needs_labels))
        for name, terms in stages.items()
    }
    dropped = _names(stages.values()) - _names(found.values())
    kept = {name: terms for name, terms in found.items() if terms}
    if not kept:
        raise UsageError(
            f"method {text!r} learns from labels alone, which embeddings have not",
            "use embeddings, or similarities where widths differ",
        )
    if dropped:
        reasons.append(f"without labels, terms on them are left out: {', '.join(sorted(dropped))}")
    return kept


def _names(stages: Iterable[Sequence[Term]]) -> set[str]:
    return {term.name for terms in stages for term in terms}
