"""The student of a plan: its shape, its default method, where its weights start, and why."""

from dataclasses import replace
from pathlib import Path

from toolchain.data.sources import TaskData
from toolchain.distill.compose import Composition, compose
from toolchain.errors import UsageError
from toolchain.models.checkpoint import Checkpoint
from toolchain.models.initialise import Init, copied_layers
from toolchain.models.vocabulary import kept_count
from toolchain.plan.thin import thin_spec
from toolchain.recipe import Recipe, StudentShape
from toolchain.spec import LANGUAGE, SEQUENCE, TOKENS, ModelSpec

__all__ = ["check_names", "default_method", "initialisation", "resolved", "student_spec"]


def student_spec(
    recipe: Recipe,
    start: Checkpoint | None,
    teacher: ModelSpec,
    composition: Composition | None,
    reasons: list[str],
) -> ModelSpec:
    """Return the shape asked for, or half the teacher. Raises UsageError when it cannot be."""
    shape = recipe.student
    if start is not None:
        return _given(start, teacher)
    if shape.family not in (None, teacher.family):
        return thin_spec(shape, teacher, reasons)
    if shape.inner is not None and shape.inner != teacher.query_width:
        raise UsageError(
            f"student.inner is {shape.inner}: only mobilebert has a width inside its blocks",
            "set student.family=mobilebert, or drop inner",
        )
    if _copies_all(recipe, composition):
        return _whole(shape, teacher, reasons)
    layers = shape.layers
    if layers is None:
        layers = max(1, teacher.layers // 2)
        reasons.append(f"no --layers given: half of the teacher's {teacher.layers}, {layers}")
    spec = teacher.reshaped(layers=layers, width=shape.hidden, heads=shape.heads, ffn=shape.ffn)
    problem = spec.problem()
    if problem:
        raise UsageError(f"student: {problem}")
    spec = _with_fewer_tokens(spec, shape.vocab, teacher, reasons)
    copies = spec.width == teacher.width and shape.init != "random"
    if copies and spec.layers > teacher.layers:
        raise UsageError(
            f"the student has {spec.layers} layers, the teacher only {teacher.layers} to copy",
            "give it fewer layers, or set student.init=random",
        )
    if spec.params() > teacher.params():
        raise UsageError(
            f"student: {spec} has {spec.params():,} parameters, more than the teacher's "
            f"{teacher.params():,}",
            "give it fewer layers or a smaller width",
        )
    return spec


def _given(start: Checkpoint, teacher: ModelSpec) -> ModelSpec:
    """Return the shape of a student made elsewhere, with a head for the teacher's task."""
    if teacher.task in LANGUAGE:
        if start.spec.causal != teacher.causal:
            raise UsageError(
                f"student {start.source}: a {start.family.name} model is none for {teacher.task}, "
                "which the teacher is for",
                "give an encoder to an encoder, a decoder to a decoder",
            )
        return replace(start.spec, task=teacher.task, num_labels=0)
    if teacher.task == "embed":
        return replace(start.spec, task="embed", num_labels=0)
    of_tokens = (start.task if start.task in TOKENS else "", teacher.task in TOKENS)
    fits = of_tokens in (("", False), (teacher.task, True))
    if start.spec.num_labels != teacher.num_labels or not fits:
        raise UsageError(
            f"student {start.source}: a model for {start.task} with {start.spec.num_labels} "
            f"classes, the teacher's task is {teacher.task} with {teacher.num_labels}",
            "give a student with a head for the task (toolchain design makes one)",
        )
    return replace(start.spec, task=teacher.task)


def check_names(start: Checkpoint, task: TaskData) -> None:
    """Raise UsageError for a student made elsewhere that calls its outputs otherwise than the task.

    Numbers, as in LABEL_0, are no names.
    """
    own = list(start.labels.values())
    if not task.named or own in ([], [f"LABEL_{i}" for i in range(len(own))]):
        return
    if [name.casefold() for name in own] != [name.casefold() for name in task.labels]:
        raise UsageError(
            f"student {start.source}: its outputs are {', '.join(own)}, those of the task "
            f"{', '.join(task.labels)}",
            "give a student with the same labels in the same order",
        )


def _with_fewer_tokens(
    spec: ModelSpec, asked: float | None, teacher: ModelSpec, reasons: list[str]
) -> ModelSpec:
    if asked is None:
        return spec
    small = replace(spec, vocab=kept_count(asked, teacher.vocab))
    reasons.append(
        f"the student keeps {small.vocab:,} of {teacher.vocab:,} tokens, those its texts use most: "
        f"{spec.params() - small.params():,} parameters fewer"
    )
    return small


def _copies_all(recipe: Recipe, composition: Composition | None) -> bool:
    by_method = composition is not None and composition.init == "teacher_copy"
    return recipe.student.init == "teacher_copy" or (recipe.student.init == "auto" and by_method)


def _whole(shape: StudentShape, teacher: ModelSpec, reasons: list[str]) -> ModelSpec:
    if shape.vocab is not None:
        raise UsageError(
            "student.vocab is set, but the student starts as a copy of the teacher",
            "drop student.vocab, or choose another student.init",
        )
    sizes = {"layers": teacher.layers, "hidden": teacher.width, "heads": teacher.heads}
    for name, value in {**sizes, "ffn": teacher.ffn}.items():
        asked = getattr(shape, name)
        if asked not in (None, value):
            raise UsageError(
                f"student.{name} is {asked}, but the student starts as a copy of the teacher, "
                f"which has {value}",
                "leave the shape out: what is left of it follows from training",
            )
    reasons.append("the student starts as a copy of the teacher; training decides what is left")
    return teacher


def default_method(student: ModelSpec, teacher: ModelSpec, reasons: list[str]) -> Composition:
    """Return the method for a recipe that names none (methods.md section 6.5)."""
    if student.task == "embed":
        text, why = _for_embeddings(student, teacher)
    elif student.tokenizer != teacher.tokenizer:
        text, why = (
            ("kd", "the tokenizers differ: predictions alone can be matched")
            if student.task in SEQUENCE
            else ("uld", "the tokenizers differ: sorted predictions need no common tokens")
        )
    elif student.width == teacher.width and student.family == teacher.family:
        text, why = "kd", "equal widths: whole teacher layers are copied, predictions matched"
    else:
        text, why = (
            "kd+minilm_v2",
            "no layer can be copied: relations first, then predictions",
        )
    reasons.append(f"method {text}: {why}")
    return compose(text, {})


def _for_embeddings(student: ModelSpec, teacher: ModelSpec) -> tuple[str, str]:
    if student.width == teacher.width and student.family == teacher.family:
        return "embeddings+similarities", "equal widths: the vectors themselves are matched"
    if student.tokenizer != teacher.tokenizer:
        return "similarities", "vectors of other models are compared by what is near what"
    return (
        "minilm_v2+similarities",
        "no layer can be copied: relations of tokens first, then those of texts",
    )


def initialisation(
    recipe: Recipe,
    student: ModelSpec,
    teacher: ModelSpec,
    composition: Composition,
    reasons: list[str],
) -> Init:
    """Return where the weights start. Raises UsageError for a start that makes no sense."""
    asked = recipe.student.init
    kin = student.family == teacher.family
    same = kin and student.same_blocks(teacher)
    shapes = (
        f"the student is {student.width} wide ({student.heads} heads, ffn {student.ffn}), "
        f"the teacher {teacher.width} ({teacher.heads} heads, ffn {teacher.ffn})"
        if kin
        else f"the student is a {student.family}, the teacher a {teacher.family}"
    )
    if asked == "random":
        return "random"
    if not same and asked != "auto":
        raise UsageError(
            f"student.init {asked} copies whole layers, but {shapes}",
            "cutting layers to a smaller width is as bad as a random start; give equal widths "
            "or leave init to auto",
        )
    if not same:
        if not {"general", "inter"} & set(composition.stages):
            raise UsageError(
                f"method {composition.text!r} needs a student that starts from the teacher, "
                f"but {shapes}, so no layer can be copied",
                "add +minilm_v2 (relations need no equal widths), or set student.init=random",
            )
        reasons.append(f"init random: {shapes}, and cut layers are as bad as random ones")
        return "random"
    if asked != "auto":
        return asked
    if composition.init is not None:
        reasons.append(f"init {composition.init}: where the method's paper starts the student")
        return composition.init
    # Measured: 2 to 4 points better than the lowest blocks within few steps (benchmarks/LOG.md).
    layers = copied_layers("teacher_uniform", student.layers, teacher.layers)
    reasons.append(f"init teacher_uniform ({layers}): equal widths, whole layers are copied")
    return "teacher_uniform"


def resolved(recipe: Recipe, student: ModelSpec, init: Init) -> Recipe:
    """Return the recipe with everything decided written into it, paths made absolute."""
    if recipe.student.path:
        shape = recipe.student.model_copy(update={"path": _absolute(recipe.student.path)})
        return _with_absolute_paths(recipe, shape)
    shape = recipe.student.model_copy(
        update={
            "layers": student.layers,
            "hidden": student.width,
            "heads": student.heads,
            "ffn": student.ffn,
            "vocab": None if recipe.student.vocab is None else student.vocab,
            "init": init,
            "inner": student.query_width if recipe.student.family == "mobilebert" else None,
        }
    )
    return _with_absolute_paths(recipe, shape)


def _with_absolute_paths(recipe: Recipe, shape: StudentShape) -> Recipe:
    raw = _absolute(recipe.data.raw) if recipe.data.raw else None
    further = _absolute(recipe.data.unlabelled) if recipe.data.unlabelled else None
    data = recipe.data.model_copy(
        update={"path": _absolute(recipe.data.path), "raw": raw, "unlabelled": further}
    )
    teachers = [_absolute(teacher) for teacher in recipe.teachers]
    paths = {"teacher": _absolute(recipe.teacher), "teachers": teachers, "data": data}
    return recipe.model_copy(update={"student": shape, **paths})


def _absolute(source: str) -> str:
    return str(Path(source).resolve()) if Path(source).exists() else source
