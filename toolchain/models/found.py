"""Which task's head a file of weights carries, and the names of its classes.

Read from tensor names and the configuration: a class like `BertForTokenClassification` is believed
only where its tensors are there.
"""

from collections.abc import Mapping
from typing import Any

from toolchain.errors import UsageError
from toolchain.models.family import Family
from toolchain.spec import LANGUAGE, Task

__all__ = ["declared_task", "found_task", "has_lm_head", "labels_of"]

Tensors = Mapping[str, tuple[int, ...]]

_DECLARED: dict[str, Task] = {
    "ForSequenceClassification": "classify",
    "ForTokenClassification": "tag",
    "ForQuestionAnswering": "qa",
    # Heads that are not ours: the model counts as a bare one.
    "ForMultipleChoice": "encode",
    "ForNextSentencePrediction": "encode",
}
_LANGUAGE: dict[str, Task] = {
    "ForMaskedLM": "mask_lm",
    "ForCausalLM": "causal_lm",
    "LMHeadModel": "causal_lm",
}
_PROBLEMS: dict[str, Task] = {
    "single_label_classification": "classify",
    "multi_label_classification": "multi_label",
    "regression": "regress",
}


def found_task(
    config: Mapping[str, Any], family: Family, tensors: Tensors, *, tied: bool, where: str
) -> Task:
    """Return the task of the head in the file; "encode" where there is none.

    Raises UsageError for half a head and for a problem_type that cannot be.
    """
    declared = _declared(config)
    present = [task for task in family.heads if _complete(family, task, tensors)]
    labelled: list[Task] = [task for task in present if task not in LANGUAGE]
    if declared in ("classify", "tag", "qa") and declared not in labelled:
        _refuse_half(family, declared, tensors, where)
        labelled = []
    if declared == "encode":
        labelled = []
    if labelled:
        # Where two heads share a name, the one with more parameters of its own is meant.
        most = max(labelled, key=lambda task: len(family.heads[task].parameters))
        task = declared if declared in labelled else most
        if task == "qa" and _rows(family, task, tensors) != 2:
            raise UsageError(
                f"{where}: its head for questions has {_rows(family, task, tensors)} rows, "
                "expected 2: where an answer begins and where it ends"
            )
        return _kind(config, family, tensors, where) if task == "classify" else task
    language = [task for task in family.heads if task in LANGUAGE]
    if language and has_lm_head(family, tensors, tied=tied):
        return language[0]
    return "encode"


def has_lm_head(family: Family, tensors: Tensors, *, tied: bool) -> bool:
    """Whether a language head is in the file, or is the token embeddings of a tied decoder."""
    if "causal_lm" in family.heads:
        return tied or _complete(family, "causal_lm", tensors)
    return "mask_lm" in family.heads and _complete(family, "mask_lm", tensors)


def labels_of(
    config: Mapping[str, Any], family: Family, tensors: Tensors, task: Task, *, where: str
) -> dict[int, str]:
    """Return the class names by id; empty for tasks without classes.

    Raises UsageError when the configuration does not name the classes the head has.
    """
    if task not in ("classify", "multi_label", "tag"):
        return {}
    rows = _rows(family, task, tensors)
    raw = config.get("id2label")
    names = raw if isinstance(raw, dict) else {str(i): f"LABEL_{i}" for i in range(rows)}
    try:
        labels = {int(key): str(value) for key, value in names.items()}
    except ValueError:
        raise UsageError(f"{where}: id2label in config.json has ids that are not numbers") from None
    if sorted(labels) != list(range(rows)):
        raise UsageError(f"{where}: id2label names {len(labels)} classes, the head has {rows} rows")
    return dict(sorted(labels.items()))


def declared_task(config: Mapping[str, Any]) -> Task:
    """Return the task of the class a configuration names, where there are no weights to look at.

    A classifier of any kind is "classify", a bare model "encode".
    """
    return _declared(config, {**_DECLARED, **_LANGUAGE}) or "encode"


def _declared(config: Mapping[str, Any], endings: Mapping[str, Task] = _DECLARED) -> Task | None:
    names = config.get("architectures")
    for name in names if isinstance(names, list) else []:
        for ending, task in endings.items():
            if str(name).endswith(ending):
                return task
    return None


def _complete(family: Family, task: Task, tensors: Tensors) -> bool:
    return not _lacking(family, task, tensors)


def _lacking(family: Family, task: Task, tensors: Tensors) -> list[str]:
    return [
        prefix
        for prefix in family.heads[task].parameters
        if not any(name.startswith(prefix) for name in tensors)
    ]


def _refuse_half(family: Family, task: Task, tensors: Tensors, where: str) -> None:
    head = family.head(task)
    if f"{head.last}.weight" in tensors:
        lacking = _lacking(family, task, tensors)[0]
        raise UsageError(
            f"{where}: config.json promises a head for {task}, the weights lack {lacking!r}",
            "save the whole model again, or name the right class under architectures",
        )


def _rows(family: Family, task: Task, tensors: Tensors) -> int:
    return tensors[f"{family.head(task).last}.weight"][0]


def _kind(config: Mapping[str, Any], family: Family, tensors: Tensors, where: str) -> Task:
    rows = _rows(family, "classify", tensors)
    problem = config.get("problem_type")
    if problem is None:
        return "regress" if rows == 1 else "classify"
    if problem not in _PROBLEMS:
        raise UsageError(
            f"{where}: its problem_type is {problem!r}", f"known: {', '.join(_PROBLEMS)}"
        )
    task = _PROBLEMS[problem]
    if task == "regress" and rows != 1:
        raise UsageError(
            f"{where}: a regression with {rows} scores", "one score per sequence is supported"
        )
    return task
