"""Assistants between teacher and student: their shapes, where they start, who guides whom.

Without `all_guides` every model of the chain learns from the one before it; with it from the
teachers and every assistant before it.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeVar

from toolchain.data.sources import TaskData
from toolchain.distill.compose import Composition
from toolchain.errors import UsageError
from toolchain.models.initialise import copied_layers
from toolchain.plan.student import initialisation, student_spec
from toolchain.plan.training import stage_plans
from toolchain.plan.types import AssistantPlan
from toolchain.recipe import Recipe, StudentShape
from toolchain.spec import ModelSpec

__all__ = ["Chain", "assistants_of", "check_chain", "source_of", "suggested", "with_shapes"]

T = TypeVar("T")


@dataclass(frozen=True, kw_only=True)
class Chain:
    """What the hops of one run share. `teachers` are shapes, the first teacher's first."""

    recipe: Recipe
    composition: Composition
    teachers: tuple[ModelSpec, ...]
    task: TaskData
    raw: tuple[str, ...]
    lm_heads: bool
    unlabelled: int = 0

    def guides(self, assistants: Sequence[ModelSpec]) -> tuple[ModelSpec, ...]:
        """Return who teaches the model after these assistants."""
        if self.composition.all_guides:
            return (*self.teachers, *assistants)
        return tuple(assistants[-1:]) or self.teachers


def check_chain(chain: Chain, student: ModelSpec) -> None:
    """Raise UsageError for a method that lacks assistants, or cannot make a chain."""
    asked, needed = chain.recipe.assistants, chain.composition.needs_assistants
    text = chain.composition.text
    if len(asked) < needed:
        raise UsageError(
            f"method {text!r} needs an assistant between teacher and student, the recipe names "
            "none",
            _advice(chain.teachers[0], student),
        )
    if asked and not chain.composition.all_guides and chain.composition.needs_teachers > 1:
        raise UsageError(
            f"method {text!r} needs {chain.composition.needs_teachers} teachers, but behind an "
            "assistant each student has one: the assistant",
            "drop assistants:, or use dgkd, where all of them guide",
        )


def _advice(teacher: ModelSpec, student: ModelSpec) -> str:
    between = suggested(teacher, student)
    if between is None:
        return "no shape lies between the two: choose a smaller student, or use kd"
    wide = f", hidden: {between.width}" if between.width != teacher.width else ""
    middle = round(math.sqrt(teacher.params() * student.params()))
    return (
        f"assistants=[{{layers: {between.layers}{wide}}}] has {between.params():,} parameters, "
        f"nearest the geometric mean {middle:,} of teacher and student"
    )


def suggested(teacher: ModelSpec, student: ModelSpec) -> ModelSpec | None:
    """Return the shape nearest the geometric mean of both sizes; None where nothing is between.

    Depths from the student's to the teacher's, at either width, the teacher's first.
    """
    between = [
        spec
        for width in dict.fromkeys((teacher.width, student.width))
        for layers in range(student.layers, teacher.layers + 1)
        for spec in [teacher.reshaped(layers=layers, width=width)]
        if spec.problem() is None and student.params() < spec.params() < teacher.params()
    ]
    middle = (math.log(teacher.params()) + math.log(student.params())) / 2
    return min(between, key=lambda s: abs(math.log(s.params()) - middle), default=None)


def source_of(spec: ModelSpec, chain: Sequence[ModelSpec]) -> int:
    """Return whose layers a model starts from: 0 the teacher, n assistant n before it.

    The teacher's where they fit, else those of the last assistant whose do.
    """
    if not spec.same_blocks(chain[0]):
        for number in range(len(chain) - 1, 0, -1):
            if spec.same_blocks(chain[number]):
                return number
    return 0


def assistants_of(
    chain: Chain, student: ModelSpec, reasons: list[str]
) -> tuple[AssistantPlan, ...]:
    """Return the assistants in order, each smaller than the one before. Raises UsageError."""
    check_chain(chain, student)
    plans: list[AssistantPlan] = []
    for number, shape in enumerate(chain.recipe.assistants):
        where = f"assistants[{number}]"
        said: list[str] = []
        before = [plan.spec for plan in plans]
        plans.append(_at(where, lambda s=shape, b=before, r=said: _assistant(chain, s, b, r)))  # type: ignore[misc]
        _check_size(where, plans[-1].spec, (chain.teachers[0], *before)[-1], student)
        reasons += [f"{where}: {line}" for line in said]
    return tuple(plans)


def with_shapes(recipe: Recipe, assistants: Sequence[AssistantPlan]) -> Recipe:
    """Return the recipe with the assistants' shapes and starts written into it."""
    shapes = [
        StudentShape(
            layers=a.spec.layers,
            hidden=a.spec.width,
            heads=a.spec.heads,
            ffn=a.spec.ffn,
            init="auto" if a.init == "given" else a.init,
        )
        for a in assistants
    ]
    return recipe.model_copy(update={"assistants": shapes})


def _assistant(
    chain: Chain, shape: StudentShape, before: Sequence[ModelSpec], reasons: list[str]
) -> AssistantPlan:
    own = chain.recipe.model_copy(update={"student": shape})
    teacher, composition = chain.teachers[0], chain.composition
    spec = student_spec(own, None, teacher, composition, reasons)
    models = (teacher, *before)
    source = source_of(spec, models)
    init = initialisation(own, spec, models[source], composition, reasons)
    stages = stage_plans(
        own,
        composition,
        spec,
        chain.guides(before),
        chain.task,
        chain.raw,
        # What is said of stages is said once, of the student's.
        [],
        lm_heads=chain.lm_heads and not before,
        unlabelled=chain.unlabelled,
    )
    return AssistantPlan(
        spec=spec,
        init=init,
        copied=copied_layers(init, spec.layers, models[source].layers),
        source=source,
        stages=stages,
    )


def _check_size(where: str, spec: ModelSpec, before: ModelSpec, student: ModelSpec) -> None:
    if not student.params() < spec.params() < before.params():
        raise UsageError(
            f"{where}: {spec} has {spec.params():,} parameters, expected fewer than the model "
            f"before it ({before.params():,}) and more than the student ({student.params():,})",
            "name assistants from the largest to the smallest",
        )


def _at(where: str, make: Callable[[], T]) -> T:
    """Make an assistant as students are made; what is refused is said of the assistant."""
    try:
        return make()
    except UsageError as error:
        problem = error.message.removeprefix("student: ").replace("the student", "it")
        way_out = error.hint.replace("student.", f"{where}.").replace("student", "assistant")
        raise UsageError(f"{where}: {problem}", way_out) from None
