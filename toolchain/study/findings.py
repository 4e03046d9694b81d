"""What a study found: effects along each axis with intervals over seeds, and a guideline.

Differences are paired by seed: equal rows, equal order, equal draws where the shapes are equal.
"""

import statistics
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from typing import Any

from toolchain.config import dump_yaml
from toolchain.recipe import Recipe
from toolchain.report.figures import higher_is_better
from toolchain.rundir import Done
from toolchain.stats import mean_interval
from toolchain.study.asked import Compared, Study
from toolchain.study.design import BASE, TOGETHER, Axis, Choice, Design, Setting, recipe_of
from toolchain.study.schedule import Schedule, Speed

__all__ = ["Effect", "Findings", "Guideline", "Sample", "effects", "guideline"]

# Wider than rounding makes of figures that are the same.
_ALIKE = 1e-9


@dataclass(frozen=True, kw_only=True)
class Sample:
    """One variant trained with one seed: the task's metric on dev, and what it took."""

    variant: str
    seed: int
    metric: float
    seconds: float
    samples_per_s: float
    parameters: int


@dataclass(frozen=True, kw_only=True)
class Effect:
    """One choice of an axis beside the axis' reference.

    `differences` has one figure per seed, `ci95` the t-interval of their mean (None for one seed),
    `rank` 1 the best mean of the axis. The reference has no differences.
    """

    choice: str
    variant: str
    mean: float
    differences: tuple[float, ...]
    ci95: tuple[float, float] | None
    rank: int
    parameters: int

    @property
    def difference(self) -> float | None:
        """Mean difference to the reference; None for the reference itself."""
        return statistics.fmean(self.differences) if self.differences else None


@dataclass(frozen=True, kw_only=True)
class Guideline:
    """What an axis says: the choice to take, whether it was told from all others, one sentence.

    A choice that is taken for another than the reference was told from that at least.
    """

    axis: Compared
    choice: str
    told_apart: bool
    sentence: str


def effects(axis: Axis, samples: Mapping[str, Mapping[int, Sample]], *, up: bool) -> list[Effect]:
    """Return the effects of one axis; `samples` are by variant and seed, `up` if more is better."""
    reference = samples[axis.choices[0].variant]
    means = {
        c.variant: statistics.fmean(s.metric for s in samples[c.variant].values())
        for c in axis.choices
    }
    order = sorted(means.values(), reverse=up)
    found = []
    for number, choice in enumerate(axis.choices):
        own = samples[choice.variant]
        differences = tuple(own[seed].metric - reference[seed].metric for seed in own)
        found.append(
            Effect(
                choice=choice.name,
                variant=choice.variant,
                mean=means[choice.variant],
                differences=differences if number else (),
                ci95=mean_interval(differences) if number else None,
                rank=1 + order.index(means[choice.variant]),
                parameters=next(iter(own.values())).parameters,
            )
        )
    return found


def guideline(axis: Compared, found: list[Effect], *, up: bool) -> Guideline:
    """Return what to take of an axis: a choice told apart from the reference, else that."""
    base = found[0].choice
    sides = {effect.choice: _side(effect, up=up) for effect in found[1:]}
    better, undecided, worse = (
        [e for e in found[1:] if sides[e.choice] == side] for side in (1, 0, -1)
    )
    if better:
        taken = min(better, key=lambda effect: effect.rank)
        sentence = f"{taken.choice} wins over {base}, by {_interval(taken)}"
        ahead = [e for e in undecided if e.rank < taken.rank]
        if ahead:
            sentence += f"; {_said_of(ahead)} better on average, but not beyond the seeds"
        return Guideline(axis=axis, choice=taken.choice, told_apart=True, sentence=f"{sentence}.")
    if all(effect.ci95 is None for effect in found):
        best = min(found, key=lambda effect: effect.rank).choice
        sentence = (
            f"{best} has the best figure, but one seed cannot tell it from chance: keep {base}."
        )
    elif not any(difference for effect in found for difference in effect.differences):
        sentence = (
            "every choice gave the very same figures, as models do that have learned nothing yet: "
            f"keep {base}, or give it more time."
        )
    elif not undecided:
        sentence = f"{base} wins: every other choice is worse than it."
    elif worse:
        sentence = (
            f"{_said_of(worse)} worse than {base}; "
            f"{_listed(undecided)} cannot be told from it: keep {base}."
        )
    else:
        sentence = f"all differences lie within what seeds make of them: keep {base}."
    return Guideline(axis=axis, choice=base, told_apart=not undecided, sentence=sentence)


def _side(effect: Effect, *, up: bool) -> int:
    """Return 1 where the whole interval is better than the reference, -1 where worse, else 0."""
    # Seeds that agree to the last digit are a coarse metric's doing, and bound nothing.
    if effect.ci95 is None or effect.ci95[1] - effect.ci95[0] < _ALIKE:
        return 0
    low, high = effect.ci95 if up else (-effect.ci95[1], -effect.ci95[0])
    return 1 if low > 0 else -1 if high < 0 else 0


def _interval(effect: Effect) -> str:
    assert effect.difference is not None
    assert effect.ci95 is not None
    return f"{effect.difference:+.4f} ({effect.ci95[0]:+.4f} to {effect.ci95[1]:+.4f})"


def _said_of(found: list[Effect]) -> str:
    return f"{_listed(found)} {'is' if len(found) == 1 else 'are'}"


def _listed(found: list[Effect]) -> str:
    names = [effect.choice for effect in found]
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"


@dataclass(frozen=True, kw_only=True)
class Findings:
    """A finished study: what was asked, done and found."""

    asked: Study
    design: Design
    schedule: Schedule
    speed: Speed
    samples: tuple[Sample, ...]
    command: str
    created: str
    environment: Mapping[str, object]
    steps: tuple[Done, ...]

    @property
    def metric(self) -> str:
        """The task's metric."""
        return self.design.base.plan.recipe.metric

    @property
    def up(self) -> bool:
        """Whether more of the metric is better."""
        return higher_is_better(self.metric)

    @cached_property
    def by_variant(self) -> dict[str, dict[int, Sample]]:
        """Samples by variant and seed."""
        found: dict[str, dict[int, Sample]] = {}
        for sample in self.samples:
            found.setdefault(sample.variant, {})[sample.seed] = sample
        return found

    @cached_property
    def axes(self) -> tuple[tuple[Axis, list[Effect], Guideline], ...]:
        """Every axis that was studied, with its effects and its guideline."""
        studied = [axis for axis in self.design.axes if axis.name in self.schedule.axes]
        return tuple(self._read(axis) for axis in studied)

    @cached_property
    def together(self) -> tuple[Axis, list[Effect], Guideline] | None:
        """The base beside what the axes make of it together, where that was another variant."""
        if TOGETHER not in self.by_variant:
            return None
        choices = (("base", BASE), ("guideline", TOGETHER))
        named = tuple(Choice(name=name, variant=key) for name, key in choices)
        return self._read(Axis(name=TOGETHER, choices=named))

    @property
    def compared(self) -> tuple[tuple[Axis, list[Effect], Guideline], ...]:
        """All axes, and at the end what they make of the base together."""
        return (*self.axes, self.together) if self.together else self.axes

    def _read(self, axis: Axis) -> tuple[Axis, list[Effect], Guideline]:
        found = effects(axis, self.by_variant, up=self.up)
        said = guideline(axis.name, found, up=self.up)
        (key,) = (effect.variant for effect in found if effect.choice == said.choice)
        if axis.name == "shape" and key != found[0].variant and not self._beats_base(key):
            but = " It is not better than the base, whose layers are copied: that shape stays."
            said = replace(said, choice=found[0].choice, sentence=said.sentence + but)
        if axis.name == "size" and key != found[0].variant:
            but = f" The recipe keeps {found[0].choice}: size is for the device to decide."
            said = replace(said, sentence=said.sentence + but)
        return axis, found, said

    @cached_property
    def combined(self) -> Setting:
        """The base with what each axis told apart. A larger or smaller size is not taken."""
        base, variants = self.design.base.setting, self.design.variants
        for axis, found, said in self.axes:
            (key,) = (effect.variant for effect in found if effect.choice == said.choice)
            taken = variants[key].setting
            if axis.name == "knowledge":
                base = replace(base, knowledge=taken.knowledge)
            elif axis.name == "matching" and base.layered:
                base = replace(base, match=taken.match)
            elif axis.name == "initialisation":
                base = replace(base, init=taken.init)
            elif axis.name == "shape" and key != found[0].variant:
                # Its layers cannot be copied, whatever start was best for those that can.
                base = replace(taken, knowledge=base.knowledge, match=base.match)
        return base

    @property
    def setting(self) -> Setting:
        """What to take: the axes together, unless that is refused or comes out below the base."""
        refused = any(refusal.axis == TOGETHER for refusal in self.design.refused)
        worse = self.together is not None and _side(self.together[1][1], up=self.up) < 0
        return self.design.base.setting if refused or worse else self.combined

    def _beats_base(self, key: str) -> bool:
        """Whether a shape that starts at random is better than the base as it starts."""
        choices = (Choice(name="base", variant=BASE), Choice(name="shape", variant=key))
        direct = effects(Axis(name="shape", choices=choices), self.by_variant, up=self.up)
        return _side(direct[1], up=self.up) > 0

    @property
    def recipe(self) -> Recipe:
        """The recipe of the guideline, all else as it was asked for."""
        return recipe_of(self.design.asked, self.setting)

    @property
    def recipe_yaml(self) -> str:
        """The recipe as a file for `compress`, without what are defaults."""
        return dump_yaml(self.recipe, defaults=False)

    def as_json(self) -> dict[str, Any]:
        """Return study.json, schema 1."""
        plan = self.design.base.plan
        task = plan.task
        return {
            "schema": 1,
            "created": self.created,
            "command": self.command,
            "environment": dict(self.environment),
            "task": {
                "name": task.name,
                "task": task.task,
                "metric": self.metric,
                "rows": {"train": len(task.train), "dev": len(task.dev)},
            },
            "teacher": {"shape": str(plan.teacher_spec), "parameters": plan.teacher_spec.params()},
            "budget_s": self.asked.study.budget_s,
            "speed": asdict(self.speed),
            "schedule": self.schedule.as_json(),
            "batch_size": plan.stages[-1].batch_size,
            "lr": plan.stages[-1].lr,
            "variants": {key: asdict(self.design.variants[key].setting) for key in self.by_variant},
            "samples": [asdict(sample) for sample in self.samples],
            "axes": [
                {
                    "axis": axis.name,
                    "reference": axis.choices[0].name,
                    "choices": [{**asdict(e), "difference": e.difference} for e in found],
                    "guideline": asdict(said),
                }
                for axis, found, said in self.compared
            ],
            "refused": [asdict(refusal) for refusal in self.design.refused],
            "recipe": self.recipe_yaml,
            "steps": [
                {"name": s.name, "seconds": s.seconds, "skipped": s.skipped} for s in self.steps
            ],
        }
