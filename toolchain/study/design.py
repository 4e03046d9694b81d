"""The experiments of a study: one base setting, and axes varied around it one at a time.

Every variant is a whole plan, so what a teacher does not allow is refused here, before any weight
is loaded, and listed with the plan's own sentence.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final, Literal

from toolchain.config import parse
from toolchain.errors import ResourceError, UsageError
from toolchain.plan import Plan, make_plan
from toolchain.recipe import Gates, Quantize, Recipe
from toolchain.spec import ModelSpec
from toolchain.study.asked import AxisName, Compared, Study, StudySettings

__all__ = [
    "BASE",
    "LABELS",
    "TOGETHER",
    "Axis",
    "Choice",
    "Design",
    "Knowledge",
    "Refusal",
    "Setting",
    "Variant",
    "make_design",
    "planned",
    "recipe_of",
]

Knowledge = Literal["labels", "logits", "hidden", "attention", "relations"]
Init = Literal["teacher_uniform", "teacher_first_k", "random"]

BASE, LABELS = "base", "labels"
TOGETHER: Final = "together"
_RANDOM = "random"

_KNOWLEDGE: Mapping[Knowledge, str] = {
    "hidden": "hidden states",
    "labels": "labels alone",
    "logits": "logits",
    "attention": "attention scores",
    "relations": "q/k/v relations",
}
_INITS: tuple[Init, ...] = ("teacher_uniform", "teacher_first_k", "random")
_MATCHES = ("uniform", "first", "last", "skip")


@dataclass(frozen=True, kw_only=True)
class Setting:
    """One point of the design. `heads` and `ffn` go with the width `hidden`.

    Hidden states are `projected` where the student is not as wide as its teacher.
    """

    layers: int
    hidden: int
    heads: int
    ffn: int
    init: Init
    projected: bool
    knowledge: Knowledge = "hidden"
    match: str = "uniform"

    @property
    def layered(self) -> bool:
        """Whether it reads layers, so that a matching is needed."""
        return self.knowledge not in ("labels", "logits")

    @property
    def shape(self) -> str:
        """Depth and width, as `3 x 384`."""
        return f"{self.layers} x {self.hidden}"


@dataclass(frozen=True, kw_only=True)
class Variant:
    """A setting that is trained; `key` names its folder."""

    key: str
    setting: Setting
    plan: Plan


@dataclass(frozen=True, kw_only=True)
class Choice:
    """One choice along an axis, and the variant that stands for it."""

    name: str
    variant: str


@dataclass(frozen=True, kw_only=True)
class Axis:
    """Choices that differ in one thing; the first is what the others are held against."""

    name: Compared
    choices: tuple[Choice, ...]


@dataclass(frozen=True, kw_only=True)
class Refusal:
    """A choice that is not tried, and the sentence that says why."""

    axis: Compared
    choice: str
    why: str


@dataclass(frozen=True, kw_only=True)
class Design:
    """Axes, the variants by key (base and labels alone always among them), and what is refused."""

    asked: Recipe
    axes: tuple[Axis, ...]
    variants: Mapping[str, Variant]
    refused: tuple[Refusal, ...]

    @property
    def base(self) -> Variant:
        """The setting all axes start from."""
        return self.variants[BASE]

    def asked_for(self, settings: StudySettings) -> Study:
        """Return the recipe that the run's folder is known by: its paths are absolute."""
        resolved = self.base.plan.recipe
        paths = {"teacher": resolved.teacher, "data": resolved.data.model_dump(mode="json")}
        values = {**self.asked.model_dump(mode="json"), **paths, "study": settings.model_dump()}
        return parse(Study, values, where="study")


def make_design(recipe: Recipe, axes: Sequence[AxisName], output: Path) -> Design:
    """Plan every variant. Raises UsageError or ResourceError where the base cannot be trained."""
    _check(recipe)
    trial = make_plan(
        _trained(recipe, {"method": "finetune", "student": {"init": "random"}}), output
    )
    if trial.task.task == "embed":
        raise UsageError(
            "a study sets every choice beside labels alone, and texts to be embedded have none",
            "give data for a task with labels",
        )
    spec, teacher = trial.student, trial.teacher_spec
    init: Init = "teacher_uniform" if _copyable(spec, teacher) else "random"
    base = _setting(spec, teacher, init)
    found = _Search(recipe, output, base)
    found.always(LABELS, replace(base, knowledge="labels"))
    for axis in axes:
        found.axis(axis, spec, teacher)
    return Design(
        asked=recipe,
        axes=tuple(found.axes),
        variants=found.variants,
        refused=tuple(found.refused),
    )


def recipe_of(recipe: Recipe, setting: Setting) -> Recipe:
    """Return the recipe that trains a setting, all else as in `recipe`."""
    shape = {name: getattr(setting, name) for name in ("layers", "hidden", "heads", "ffn", "init")}
    teaching = _taught(setting)
    return _with(recipe, {"student": shape, **teaching})


def planned(recipe: Recipe, key: str, setting: Setting, output: Path) -> Variant:
    """Return a setting with its plan. Raises UsageError or ResourceError."""
    plan = make_plan(_trained(recipe_of(recipe, setting)), output)
    return Variant(key=key, setting=setting, plan=plan)


class _Search:
    """Plans choices one after another and remembers what came of them."""

    def __init__(self, recipe: Recipe, output: Path, base: Setting) -> None:
        self.recipe, self.output, self.base = recipe, output, base
        self.axes: list[Axis] = []
        self.refused: list[Refusal] = []
        self.variants: dict[str, Variant] = {}
        self.always(BASE, base)

    def always(self, key: str, setting: Setting) -> None:
        """Plan a setting that no study goes without; what refuses it refuses the study."""
        self.variants[key] = planned(self.recipe, key, setting, self.output)

    def axis(self, name: AxisName, spec: ModelSpec, teacher: ModelSpec) -> None:
        """Plan the choices of one axis; one that leaves nothing to compare is left out."""
        base = self.base
        choices = [Choice(name=_named(name, base), variant=BASE)]
        settings = _choices(name, base, spec, teacher)
        if any(_starts_anew(s, base) for s in settings):
            # Narrower blocks cannot be copied: such shapes are held against the base's own shape
            # from a random start, so that the shape alone differs.
            start = self._planned(name, _RANDOM, replace(base, init="random"), "random start")
            if start is None:
                return
            choices = [Choice(name=base.shape, variant=start)]
        for setting in settings:
            words = _named(name, setting)
            key = self._planned(name, f"{name}-{_slug(words)}", setting, words)
            if key:
                choices.append(Choice(name=words, variant=key))
        if len(choices) > 1:
            self.axes.append(Axis(name=name, choices=tuple(choices)))

    def _planned(self, axis: AxisName, key: str, setting: Setting, words: str) -> str | None:
        """Return the key of the variant of a setting, or None where it is refused."""
        try:
            variant = planned(self.recipe, key, setting, self.output)
        except (UsageError, ResourceError) as error:
            self.refused.append(Refusal(axis=axis, choice=words, why=error.message))
            return None
        same = [v for v in self.variants.values() if _outcome(v.plan) == _outcome(variant.plan)]
        if not same:
            self.variants[key] = variant
            return key
        if same[0].key == BASE:
            why = f"the same as {_named(axis, self.base)} for models of these depths"
            self.refused.append(Refusal(axis=axis, choice=words, why=why))
            return None
        return same[0].key


def _choices(axis: AxisName, base: Setting, spec: ModelSpec, teacher: ModelSpec) -> list[Setting]:
    """Return the settings an axis tries beside the base."""
    match axis:
        case "knowledge":
            return [replace(base, knowledge=k) for k in _KNOWLEDGE if k != base.knowledge]
        case "matching":
            return [replace(base, match=m) for m in _MATCHES if m != base.match]
        case "initialisation":
            return [replace(base, init=i) for i in _INITS if i != base.init]
        case "shape":
            depths = (min(2 * spec.layers, teacher.layers), spec.layers // 2)
            wanted = [d for d in depths if d and d != spec.layers]
            return [_setting(_as_large(spec, depth), teacher, "random") for depth in wanted]
        case "size":
            # Half of the base, and half of the way to the teacher.
            halves = (-(-spec.layers // 2), -(-(spec.layers + teacher.layers) // 2))
            fit = [n for n in halves if n not in (spec.layers, teacher.layers)]
            return [replace(base, layers=n) for n in fit]


def _as_large(spec: ModelSpec, layers: int) -> ModelSpec:
    """Return the shape of this depth, in whole heads, whose parameters are nearest the spec's."""
    head = spec.width // spec.heads
    shapes = (
        spec.reshaped(layers=layers, width=head * heads, heads=heads)
        for heads in range(1, 4 * spec.heads + 1)
    )
    possible = [shape for shape in shapes if shape.problem() is None]
    return min(possible, key=lambda shape: abs(shape.params() - spec.params()))


def _setting(spec: ModelSpec, teacher: ModelSpec, init: Init) -> Setting:
    return Setting(
        layers=spec.layers,
        hidden=spec.width,
        heads=spec.heads,
        ffn=spec.ffn,
        init=init,
        projected=spec.width != teacher.width,
    )


def _copyable(spec: ModelSpec, teacher: ModelSpec) -> bool:
    return spec.same_blocks(teacher) and spec.layers <= teacher.layers


def _starts_anew(setting: Setting, base: Setting) -> bool:
    return setting.hidden != base.hidden and base.init != "random"


def _named(axis: AxisName, setting: Setting) -> str:
    match axis:
        case "knowledge":
            return _KNOWLEDGE[setting.knowledge]
        case "matching":
            return setting.match
        case "initialisation":
            return setting.init
        case "shape" | "size":
            return setting.shape


def _slug(words: str) -> str:
    return "".join(letter if letter.isalnum() else "-" for letter in words)


def _outcome(plan: Plan) -> tuple[object, ...]:
    """Return what decides a variant's training; equal for two names of the same thing."""
    terms = [
        (b.name, b.term.extract.kind, b.term.weight, str(b.layer_map))
        for stage in plan.stages
        for b in stage.terms
    ]
    start = str(plan.copied) if plan.init != "random" else plan.init
    return terms, str(plan.student), start


def _taught(setting: Setting) -> dict[str, Any]:
    """Return method, terms and balance. Terms count alike, whatever the scale of their values."""
    parts: list[dict[str, Any]]
    match setting.knowledge:
        case "labels":
            return {"method": "finetune"}
        case "logits":
            return {"method": "kd", "balance": "initial"}
        case "hidden":
            project = ["project"] if setting.projected else []
            parts = [{"knowledge": "hidden", "transform": project, "objective": "mse"}]
        case "attention":
            parts = [{"knowledge": "attn_scores", "objective": "mse"}]
        case "relations":
            parts = [
                {"knowledge": part, "transform": ["relation"], "objective": "kl", "weight": 1 / 3}
                for part in ("q", "k", "v")
            ]
    # The mean over layers, so that a matching of fewer pairs does not count less.
    layered = {"match": setting.match, "layers": "mean"}
    terms = [{"name": p["knowledge"], **p, **layered} for p in parts]
    return {"method": "finetune", "balance": "initial", "terms": terms}


def _trained(recipe: Recipe, changes: Mapping[str, Any] | None = None) -> Recipe:
    """Return the recipe for training alone: judged once, at its end, and nothing made of it."""
    train = recipe.train.model_copy(update={"evals": 1})
    changed = _with(recipe, changes or {})
    return changed.model_copy(
        update={
            "train": train,
            "baseline": False,
            "targets": ["host"],
            "precisions": ["fp32"],
            "formats": ["onnx"],
            "tokenizer": "beside",
            "gates": Gates(),
            "quantize": Quantize(aware="never"),
        }
    )


def _with(recipe: Recipe, changes: Mapping[str, Any]) -> Recipe:
    values = recipe.model_dump(mode="json")
    student = {**values["student"], **changes.get("student", {})}
    return parse(Recipe, {**values, **changes, "student": student}, where="study")


def _check(recipe: Recipe) -> None:
    """Refuse what a study decides itself, or cannot vary. Raises UsageError."""
    chosen = {
        "method": recipe.method != "auto",
        "method_options": bool(recipe.method_options),
        "terms": bool(recipe.terms),
        "balance": recipe.balance != "none",
        "student.init": recipe.student.init != "auto",
        "student.path": recipe.student.path is not None,
        "student.family": recipe.student.family is not None,
        "assistants": bool(recipe.assistants),
        "teachers": bool(recipe.teachers),
        "stages": bool(recipe.stages),
        "data.raw": recipe.data.raw is not None,
        "data.augment": recipe.data.augment is not None,
        "data.unlabelled": recipe.data.unlabelled is not None,
    }
    for name, given in chosen.items():
        if given:
            raise UsageError(
                f"{name} is set, but a study varies one student of one teacher on the task's own "
                "rows, and chooses how it is taught",
                f"drop {name}",
            )
