"""Term: one weighted comparison of student and teacher; Method: a named tuple of terms.

    term = weight * schedule(progress) * reduction(objective(F(student), F(teacher)))

Nothing here imports torch: methods are listed, combined and refused without it. What a term
requires of two models is derived by carrying their shapes through its parts (`bind`).
"""

import dataclasses
from abc import abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar, Literal, TypeVar

from toolchain.distill.aggregation import Aggregation
from toolchain.distill.clock import Clock
from toolchain.distill.extract import Extract, Request
from toolchain.distill.matching import Matching, Whole
from toolchain.distill.objectives import Objective
from toolchain.distill.operators import Operator
from toolchain.distill.reduction import Reduction
from toolchain.distill.schedules import Constant, Schedule
from toolchain.distill.shapes import Shape, Unfit
from toolchain.distill.stages import STAGES, Stage
from toolchain.distill.surgery import Surgery
from toolchain.distill.tokens import check_comparable, check_places
from toolchain.distill.transforms import Fixed, Transform
from toolchain.errors import UsageError
from toolchain.layermap import LayerMap
from toolchain.registry import Registry
from toolchain.spec import ModelSpec

__all__ = [
    "STAGES",
    "BoundTerm",
    "Method",
    "Stage",
    "Start",
    "Term",
    "bind",
    "find_method",
    "method",
    "methods",
]

Start = Literal["teacher_uniform", "teacher_first_k", "teacher_copy"]

_WHOLE, _CONSTANT = Whole(), Constant()


@dataclass(frozen=True)
class Term:
    """What is read, how it is matched, transformed, compared, reduced and weighted.

    `stage`: "general" runs on raw text with the teacher before fine-tuning, "inter" on the task's
    texts, "pred" trains the predictions. `layers` sums or averages the pairs of the matching.
    `guide` is the teacher's knowledge that steers a selection; it is never compared. `view` names
    the operator whose forward pass is read instead of the plain one. `every_teacher` terms are
    added up over several teachers without the aggregation's weights. The schedule reads the run's
    progress, or the `clock`.
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
    layers: Literal["sum", "mean"] = "sum"
    guide: Extract | None = None
    view: str = "plain"
    every_teacher: bool = False
    clock: Clock | None = None

    @property
    def same(self) -> tuple[object, ...]:
        """What makes two terms one and the same, whatever their names and weights."""
        left_out = ("name", "weight")
        fields = (f.name for f in dataclasses.fields(self) if f.name not in left_out)
        return tuple(getattr(self, name) for name in fields)

    def __str__(self) -> str:
        """The term in one line, as recipes and plans print it."""
        chain = " | ".join([self.extract.kind, *map(repr, self.transforms)])
        at = "" if isinstance(self.match, Whole) else f" @ {self.match!r}"
        compared = f"{self.objective!r} {self.reduction.name}"
        when = "" if isinstance(self.schedule, Constant) else f", {self.schedule!r}"
        when += f", {self.clock!r}" if self.clock else ""
        view = "" if self.view == "plain" else f", on {self.view}"
        return f"{self.name}: {self.weight:g} * {chain}{at} -> {compared}{when}{view}"


class Method:
    """A named recipe of terms: a frozen dataclass whose fields are its settings.

    `needs_teachers` is how many it takes; `init` is where its paper starts the student.
    `needs_assistants` is how many models of middle size must stand between teacher and student;
    with `all_guides` a student learns from the teachers and every assistant before it, else from
    the last of them alone. With `finetunes_together` bare teachers share one head while they are
    fine-tuned.
    """

    method_name: ClassVar[str] = ""
    needs_teachers: ClassVar[int] = 1
    needs_assistants: ClassVar[int] = 0
    all_guides: ClassVar[bool] = False
    finetunes_together: ClassVar[bool] = False
    init: ClassVar[Start | None] = None

    @abstractmethod
    def terms(self) -> tuple[Term, ...]:
        """Return the terms, over one or more stages."""

    def aggregation(self) -> Aggregation | None:
        """Return how several teachers are weighed; None leaves it to others (default: mean)."""
        return None

    def operators(self) -> tuple[Operator, ...]:
        """Return what makes further views of a batch."""
        return ()

    def surgery(self) -> Surgery | None:
        """Return what changes the student's modules while it trains."""
        return None


M = TypeVar("M", bound=type)


def method(name: str) -> Callable[[M], M]:
    """Name a frozen dataclass as a method; its module must have the same name."""

    def mark(cls: M) -> M:
        if not dataclasses.is_dataclass(cls) or not issubclass(cls, Method):
            raise TypeError(f"method {name!r} must be a dataclass and a Method")
        cls.method_name = name
        return cls

    return mark


methods: Registry[dict[str, object]] = Registry("method", "toolchain.distill.methods", "__dict__")


def find_method(name: str) -> type[Method]:
    """Return the method class called `name`. Raises UsageError for an unknown name."""
    for value in methods.get(name).values():
        if isinstance(value, type) and issubclass(value, Method) and value.method_name == name:
            return value
    raise UsageError(f"the module of method {name!r} defines no class marked @method({name!r})")


@dataclass(frozen=True)
class BoundTerm:
    """A term fitted to a student and one teacher: everything resolved, layers fixed.

    `sides` holds the shapes before each transform, for both sides, so that learned modules can be
    built; `teacher` is the number of the teacher; `specs` are those of student and teacher;
    `notes` are sentences a user should read before it runs.
    """

    term: Term
    layer_map: LayerMap
    transforms: tuple[Transform, ...]
    objective: Objective
    sides: tuple[tuple[Shape, Shape], ...] = ()
    teacher: int = 0
    specs: tuple[ModelSpec, ...] = ()
    notes: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        """The term's name, with the number of every teacher but the first."""
        return f"{self.term.name}#{self.teacher + 1}" if self.teacher else self.term.name

    @property
    def across(self) -> bool:
        """Whether it compares the rows of a batch with each other, on all ranks."""
        return self.objective.across or any(t.across for t in self.transforms)

    def requests(self, side: Literal["student", "teacher"]) -> frozenset[Request]:
        """Return the tensors one side must keep; gold labels ask nothing of the teacher."""
        extract, guide = self.term.extract, self.term.guide
        if side == "student" and extract.kind == "head":
            return frozenset({Request("head", self.teacher + 1)})
        if side == "student":
            return frozenset(r for n in self.layer_map.student for r in extract.requests(n))
        if extract.is_gold:
            return frozenset()
        layers = self.layer_map.teacher
        asked = {r for n in layers for r in extract.requests(n)}
        if guide is not None:
            # The attention that reads the embeddings is that of the first block.
            asked |= {r for n in layers for r in guide.requests(max(1, n))}
        return frozenset(asked)

    def __str__(self) -> str:
        """The term with its layers."""
        resolved = dataclasses.replace(
            self.term, name=self.name, transforms=self.transforms, objective=self.objective
        )
        return f"{resolved} [{self.layer_map}]" if self.term.extract.layered else str(resolved)


def bind(term: Term, student: ModelSpec, teacher: ModelSpec, index: int = 0) -> BoundTerm:
    """Fit a term to two specs. Raises UsageError naming the term, both values and the way out."""
    if term.extract.layered and student.layers > teacher.layers and not term.match.any_depth:
        raise UsageError(
            f"term {term.name!r}: the student has {student.layers} layers, the teacher only "
            f"{teacher.layers} to match",
            "give the student fewer layers, or match the last ones alone (match: last)",
        )
    try:
        layer_map = term.match.layers(student.layers, teacher.layers)
    except Unfit as unfit:
        raise UsageError(f"term {term.name!r}: {unfit.problem}", unfit.way_out) from None
    problem = layer_map.problem(student.layers, teacher.layers)
    if problem:
        raise UsageError(
            f"term {term.name!r}: {problem}",
            "use another matching, or a student no deeper than its teacher",
        )
    if term.extract.layered and not layer_map.pairs:
        raise UsageError(
            f"term {term.name!r}: matching {term.match!r} leaves no layer of a student with "
            f"{student.layers}",
            "give the student more layers or use another matching",
        )
    try:
        return _resolved(term, layer_map, student, teacher, index)
    except Unfit as unfit:
        raise UsageError(f"term {term.name!r}: {unfit.problem}", unfit.way_out) from None


def _resolved(
    term: Term, layer_map: LayerMap, student: ModelSpec, teacher: ModelSpec, index: int
) -> BoundTerm:
    s, t = term.extract.shape(student), term.extract.shape(teacher)
    check_places(term.extract.kind, s, term.objective, term.transforms)
    if term.match.stacked:
        s = dataclasses.replace(s, layers=len(layer_map.pairs))
        t = dataclasses.replace(t, layers=len(layer_map.pairs))
    transforms, sides, notes = [], [], []
    for transform in term.transforms:
        fixed = transform.resolve(s, t)
        notes.append(fixed.note(s, t) if isinstance(fixed, Fixed) else "")
        sides.append((s, t))
        s = fixed.shape(s) if fixed.side in ("both", "student") else s
        t = fixed.shape(t) if fixed.side in ("both", "teacher") else t
        transforms.append(fixed)
    if not term.extract.is_gold:
        check_comparable(s, term.objective, tuple(transforms), student, teacher)
    objective = term.objective.resolve(s, t)
    notes.append(objective.note(s, t))
    if objective.guide and (term.guide is None or term.guide.kind != objective.guide):
        raise Unfit(
            f"objective {objective.key} selects by the teacher's {objective.guide}, found "
            f"guide: {term.guide.kind if term.guide else 'none'}",
            f"give it: guide: {objective.guide}",
        )
    positions = objective.yields(s)
    if not term.reduction.fits(positions):
        raise Unfit(
            f"reduction {term.reduction.name} does not reduce {positions!r} values",
            "use a reduction for these positions",
        )
    return BoundTerm(
        term,
        layer_map,
        tuple(transforms),
        objective,
        tuple(sides),
        index,
        (student, teacher),
        tuple(f"term {term.name}: {note}" for note in notes if note),
    )
