"""The student of a plan: its shape, its default method, where its weights start, and why."""

from pathlib import Path

from toolchain.distill.compose import Composition, compose
from toolchain.errors import UsageError
from toolchain.models.checkpoint import Checkpoint
from toolchain.models.initialise import Init, copied_layers
from toolchain.recipe import Recipe, StudentShape
from toolchain.spec import ModelSpec

__all__ = ["default_method", "initialisation", "resolved", "student_spec"]


def student_spec(
    recipe: Recipe, start: Checkpoint | None, teacher: ModelSpec, reasons: list[str]
) -> ModelSpec:
    """Return the shape asked for, or half the teacher. Raises UsageError when it cannot be."""
    shape = recipe.student
    if start is not None:
        if start.spec.num_labels != teacher.num_labels or start.spec.vocab != teacher.vocab:
            raise UsageError(
                f"student {start.source}: {start.spec.num_labels} classes and a vocabulary of "
                f"{start.spec.vocab}, the teacher has {teacher.num_labels} and {teacher.vocab}"
            )
        return start.spec
    layers = shape.layers
    if layers is None:
        layers = max(1, teacher.layers // 2)
        reasons.append(f"no --layers given: half of the teacher's {teacher.layers}, {layers}")
    spec = teacher.reshaped(layers=layers, width=shape.hidden, heads=shape.heads, ffn=shape.ffn)
    problem = spec.problem()
    if problem:
        raise UsageError(f"student: {problem}")
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


def default_method(student: ModelSpec, teacher: ModelSpec, reasons: list[str]) -> Composition:
    """Return the method for a recipe that names none (methods.md section 6.5)."""
    if student.width == teacher.width:
        text, why = "kd", "equal widths: whole teacher layers are copied, predictions matched"
    else:
        text, why = (
            "kd+minilm_v2",
            "widths differ, so no layer can be copied: relations first, then predictions",
        )
    reasons.append(f"method {text}: {why}")
    return compose(text, {})


def initialisation(
    recipe: Recipe,
    student: ModelSpec,
    teacher: ModelSpec,
    composition: Composition,
    reasons: list[str],
) -> Init:
    """Return where the weights start. Raises UsageError for a start that makes no sense."""
    asked = recipe.student.init
    same = student.width == teacher.width and student.ffn == teacher.ffn
    shapes = (
        f"the student is {student.width} wide (ffn {student.ffn}), "
        f"the teacher {teacher.width} (ffn {teacher.ffn})"
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
    # Lower layers serve a task stage best, spread ones an intermediate stage (methods.md 6.5).
    init: Init = (
        "teacher_uniform" if {"general", "inter"} & set(composition.stages) else "teacher_first_k"
    )
    layers = copied_layers(init, student.layers, teacher.layers)
    why = (
        "an intermediate stage matches layers spread over the teacher"
        if init == "teacher_uniform"
        else "with a task stage alone the teacher's lower layers serve best"
    )
    reasons.append(f"init {init} ({layers}): equal widths, and {why}")
    return init


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
            "init": init,
        }
    )
    return _with_absolute_paths(recipe, shape)


def _with_absolute_paths(recipe: Recipe, shape: StudentShape) -> Recipe:
    raw = _absolute(recipe.data.raw) if recipe.data.raw else None
    data = recipe.data.model_copy(update={"path": _absolute(recipe.data.path), "raw": raw})
    return recipe.model_copy(
        update={"student": shape, "teacher": _absolute(recipe.teacher), "data": data}
    )


def _absolute(source: str) -> str:
    return str(Path(source).resolve()) if Path(source).exists() else source
