"""Term: one weighted comparison of student and teacher; Method: a named tuple of terms.

    term = weight * schedule(progress) * reduction(objective(F(student), F(teacher)))

Nothing here imports torch: methods are listed, combined and refused without it. What a term
requires of two models is derived by carrying their shapes through its parts (`bind`).
"""

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar, Literal, Protocol, TypeVar

from toolchain.distill.extract import Extract, Request
from toolchain.distill.matching import Matching, Whole
from toolchain.distill.objectives import Objective
from toolchain.distill.reduction import Reduction
from toolchain.distill.schedules import Constant, Schedule
from toolchain.distill.shapes import Shape, Unfit
from toolchain.distill.transforms import Transform
from toolchain.errors import UsageError
from toolchain.layermap import LayerMap
from toolchain.registry import Registry
from toolchain.spec import ModelSpec

__all__ = [
    "STAGES",
    "BoundTerm",
    "Method",
    "Stage",
    "Term",
    "bind",
    "find_method",
    "method",
    "methods",
]

Stage = Literal["general", "inter", "pred"]
STAGES: tuple[Stage, ...] = ("general", "inter", "pred")

_WHOLE, _CONSTANT = Whole(), Constant()


@dataclass(frozen=True)
class Term:
    """What is read, how it is matched, transformed, compared, reduced and weighted.

    `stage`: "general" runs on raw text with the teacher before fine-tuning, "inter" on the task's
    texts, "pred" trains the predictions.
    """

    name: str
    extract: Extract
    objective: Objective
    reduction: Reduction
    match: Matching = _WHOLE
    transforms: tuple[Transform, ...] = ()
    weight: float = 1.0
    schedule: Schedule = _CONSTANT
    stage: Stage = "pred"

    @property
    def same(self) -> tuple[object, ...]:
        """What makes two terms one and the same, whatever their names and weights."""
        parts = (self.extract, self.match, self.transforms, self.objective, self.reduction)
        return (*parts, self.schedule, self.stage)

    def __str__(self) -> str:
        """The term in one line, as recipes and plans print it."""
        chain = " | ".join([self.extract.kind, *map(repr, self.transforms)])
        at = "" if isinstance(self.match, Whole) else f" @ {self.match!r}"
        compared = f"{self.objective!r} {self.reduction.name}"
        return f"{self.name}: {self.weight:g} * {chain}{at} -> {compared}"


class Method(Protocol):
    """A named recipe of terms. Its fields are its settings."""

    method_name: ClassVar[str]

    def terms(self) -> tuple[Term, ...]:
        """Return the terms, over one or more stages."""


M = TypeVar("M", bound=type)


def method(name: str) -> Callable[[M], M]:
    """Name a frozen dataclass as a method; its module must have the same name."""

    def mark(cls: M) -> M:
        if not dataclasses.is_dataclass(cls) or not callable(getattr(cls, "terms", None)):
            raise TypeError(f"method {name!r} must be a dataclass with terms()")
        cls.method_name = name  # type: ignore[attr-defined]
        return cls

    return mark


methods: Registry[dict[str, object]] = Registry("method", "toolchain.distill.methods", "__dict__")


def find_method(name: str) -> type[Method]:
    """Return the method class called `name`. Raises UsageError for an unknown name."""
    for value in methods.get(name).values():
        if isinstance(value, type) and getattr(value, "method_name", None) == name:
            return value
    raise UsageError(f"the module of method {name!r} defines no class marked @method({name!r})")


@dataclass(frozen=True)
class BoundTerm:
    """A term fitted to two models: transforms resolved, layers fixed."""

    term: Term
    layer_map: LayerMap
    transforms: tuple[Transform, ...]

    def requests(self, side: Literal["student", "teacher"]) -> frozenset[Request]:
        """Return the tensors one side must keep; gold labels ask nothing of the teacher."""
        if self.term.extract.kind == "labels" and side == "teacher":
            return frozenset()
        layers = self.layer_map.student if side == "student" else self.layer_map.teacher
        return frozenset(r for layer in layers for r in self.term.extract.requests(layer))

    def __str__(self) -> str:
        """The term with its layers."""
        line = str(dataclasses.replace(self.term, transforms=self.transforms))
        return f"{line} [{self.layer_map}]" if self.term.extract.layered else line


def bind(term: Term, student: ModelSpec, teacher: ModelSpec) -> BoundTerm:
    """Fit a term to two specs. Raises UsageError naming the term, both values and the way out."""
    layer_map = term.match.layers(student.layers, teacher.layers)
    problem = layer_map.problem(student.layers, teacher.layers)
    if problem:
        raise UsageError(f"term {term.name!r}: {problem}")
    if term.extract.layered and not layer_map.pairs:
        raise UsageError(
            f"term {term.name!r}: matching {term.match!r} leaves no layer of a student with "
            f"{student.layers}",
            "give the student more layers or use another matching",
        )
    try:
        transforms = _resolve(term, term.extract.shape(student), term.extract.shape(teacher))
    except Unfit as unfit:
        raise UsageError(f"term {term.name!r}: {unfit.problem}", unfit.way_out) from None
    return BoundTerm(term, layer_map, transforms)


def _resolve(term: Term, student: Shape, teacher: Shape) -> tuple[Transform, ...]:
    resolved = []
    for transform in term.transforms:
        fixed = transform.resolve(student, teacher)
        if fixed.side in ("both", "student"):
            student = fixed.shape(student)
        if fixed.side in ("both", "teacher"):
            teacher = fixed.shape(teacher)
        resolved.append(fixed)
    term.objective.check(student, teacher)
    if student.positions != term.reduction.positions:
        raise Unfit(
            f"reduction {term.reduction.name} reduces {term.reduction.positions!r} values, "
            f"these are {student.positions!r}",
            "use a reduction for these positions",
        )
    return tuple(resolved)
