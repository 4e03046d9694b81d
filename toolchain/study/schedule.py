"""How many steps and seeds a budget pays for, from the speed of the base setting."""

import math
from dataclasses import dataclass
from typing import Any

from toolchain import estimate, hardware
from toolchain.errors import UsageError
from toolchain.plan import Plan
from toolchain.report.figures import duration
from toolchain.study.asked import Compared
from toolchain.study.design import BASE, LABELS, Design

__all__ = ["FLOOR", "TEACHER", "Schedule", "Speed", "cost", "guessed", "schedule"]

FLOOR = 20
"""Steps below which a variant says little: seeds are given up first, then axes."""


TEACHER = 1 / 3
"""The part of the budget that a bare teacher may take to be fine-tuned."""


@dataclass(frozen=True, kw_only=True)
class Speed:
    """What the base setting takes: seconds per step, and per variant beside its steps.

    `spent_s` was gone before the first variant; a step of fine-tuning a bare teacher takes
    `teacher_s`.
    """

    step_s: float
    unit_s: float
    spent_s: float
    teacher_s: float = 0.0


@dataclass(frozen=True, kw_only=True)
class Schedule:
    """What is trained: every variant in `variants` for `steps` steps with each of `seeds` seeds."""

    steps: int
    seeds: int
    axes: tuple[Compared, ...]
    variants: tuple[str, ...]
    estimate_s: float
    notes: tuple[str, ...]

    def as_json(self) -> dict[str, Any]:
        """Return it for the study's record."""
        return {
            "steps": self.steps,
            "seeds": self.seeds,
            "axes": list(self.axes),
            "estimate_s": round(self.estimate_s, 1),
            "notes": list(self.notes),
        }


def cost(plan: Plan, base: Plan) -> float:
    """Return how long a step of a plan takes, in steps of the base: an estimate from shapes."""
    return _seconds(plan) / _seconds(base)


def _seconds(plan: Plan) -> float:
    stages = [
        (1, s.batch_size, plan.teacher_specs if s.needs_teacher else (), plan.student)
        for s in plan.stages
    ]
    return estimate.seconds(stages, tokens=plan.mean_tokens, flops_per_s=1.0)


def guessed(design: Design, budget_s: float) -> Speed:
    """Return the speed by estimate, from this machine's rate of products: for a dry run."""
    plan = design.base.plan
    rate = hardware.flops_per_s(bf16=plan.bf16, threads=plan.train_threads)
    # A forward pass over dev, and what it takes to load two models and to tokenise.
    reading = len(plan.task.dev) * 2 * plan.student.macs(round(plan.mean_tokens)) / rate
    spent = 0.0
    if plan.finetune:
        alone = [(plan.finetune.steps, plan.finetune.batch_size, (), plan.teacher_spec)]
        whole = estimate.seconds(alone, tokens=plan.mean_tokens, flops_per_s=rate)
        spent = min(whole, TEACHER * budget_s)
    return Speed(step_s=_seconds(plan) / rate, unit_s=reading + 1.0, spent_s=spent)


def schedule(design: Design, speed: Speed, *, budget_s: float, seeds: int) -> Schedule:
    """Return the most steps that fit, no more than `compress` would take for the base.

    Where too few are left, seeds are given up first, then axes from the last. Raises UsageError
    where not even the base beside labels alone fits.
    """
    most = design.base.plan.stages[-1].steps
    floor = min(FLOOR, most)
    costs = {key: cost(v.plan, design.base.plan) for key, v in design.variants.items()}
    left = budget_s - speed.spent_s
    axes = list(design.axes)
    while True:
        used = {BASE: None, LABELS: None}
        used |= {choice.variant: None for axis in axes for choice in axis.choices}
        step = speed.step_s * sum(costs[key] for key in used)
        # Once more for what the axes make of the base together.
        step += speed.step_s
        fixed = speed.unit_s * (1 + len(used))
        for count in range(seeds, 0, -1):
            steps = min(most, math.floor((left / count - fixed) / step))
            if steps >= floor:
                kept = tuple(axis.name for axis in axes)
                dropped = [axis.name for axis in design.axes if axis.name not in kept]
                return Schedule(
                    steps=steps,
                    seeds=count,
                    axes=kept,
                    variants=tuple(used),
                    estimate_s=speed.spent_s + count * (fixed + steps * step),
                    notes=tuple(_notes(steps, most, count, seeds, dropped)),
                )
        if not axes:
            need = speed.spent_s + fixed + floor * step
            raise UsageError(
                f"a budget of {duration(budget_s)} is too short: {floor} steps of the base setting "
                f"and of labels alone take about {duration(need)} here",
                "give it more time, fewer rows of dev, or a smaller batch (train.batch_size)",
            )
        axes.pop()


def _notes(steps: int, most: int, count: int, seeds: int, dropped: list[Compared]) -> list[str]:
    notes = []
    if count < seeds:
        notes.append(
            f"{count} of {seeds} seeds: with more, fewer than {FLOOR} steps would be left of the "
            "budget"
        )
    if dropped:
        notes.append(f"left out for want of time: {', '.join(dropped)}")
    if steps == most:
        notes.append(f"{most} steps are all that compress would train; the budget allows more")
    return notes
