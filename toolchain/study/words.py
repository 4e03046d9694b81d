"""A study in words, the same on every page: what was done, what was equal, what is not said."""

from collections.abc import Iterator

from toolchain.report import figures
from toolchain.study.asked import Compared
from toolchain.study.design import BASE, LABELS
from toolchain.study.findings import Effect, Findings

__all__ = ["HEADS", "TITLES", "cells", "held_equal", "interval", "sentence", "signed"]

TITLES: dict[Compared, str] = {
    "knowledge": "Knowledge",
    "initialisation": "Initialisation",
    "matching": "Matching",
    "shape": "Width and depth at equal parameters",
    "size": "Size",
    "together": "Together",
}

HEADS = ("choice", "parameters", "mean", "difference", "95 % interval", "rank")


def sentence(findings: Findings) -> str:
    """Return the study in one sentence."""
    done, task = findings.schedule, findings.design.base.plan.task
    seeds = f"{done.seeds} seeds" if done.seeds > 1 else "one seed"
    return (
        f"{len(done.variants)} variants of a student for {task.name}, {seeds}, {done.steps} steps "
        f"each: {figures.metric_name(findings.metric)} on {len(task.dev):,} rows of dev"
    )


def held_equal(findings: Findings) -> Iterator[str]:
    """Yield what a reader must know to read the tables."""
    base = findings.design.base
    setting, stage = base.setting, base.plan.stages[-1]
    yield (
        f"The base: {base.plan.student} from {base.plan.teacher_spec}, started from "
        f"{setting.init}, taught hidden states ({setting.match}) beside the labels. Axes are "
        "varied one at a time around it: how choices of two axes act on each other is not studied."
    )
    yield (
        f"Every variant has the same steps of {stage.batch_size} rows at a peak rate of "
        f"{stage.lr:g}, and for each seed the same rows in the same order. Terms are balanced by "
        "their own first values. Dev is read once, at the end."
    )
    if findings.schedule.seeds > 1:
        yield (
            "Differences are to the first line of a table, paired by seed, with t-intervals over "
            "seeds. They say what other seeds would do, not what other rows of dev would; of "
            "twenty intervals one misses by chance."
        )
    else:
        yield "With one seed there are no intervals: differences may be chance."
    yield from _unlisted(findings)
    yield "These are short trainings: what wins late is not seen, and rates were not tuned."
    if any(a.name == "shape" and a.choices[0].variant != BASE for a, _, _ in findings.axes):
        yield (
            "Blocks of another width cannot be copied, so shapes are held against the base's own "
            "from a random start."
        )
    yield from (f"{note[0].upper()}{note[1:]}." for note in findings.schedule.notes)


def _unlisted(findings: Findings) -> Iterator[str]:
    """Yield what labels alone reach, where no table has it."""
    if "knowledge" not in findings.schedule.axes:
        own = findings.by_variant[LABELS].values()
        mean = sum(sample.metric for sample in own) / len(own)
        yield f"Labels alone reach {figures.score(mean)}."


def cells(effect: Effect) -> tuple[str, ...]:
    """Return one line of an axis' table, in the order of HEADS."""
    return (
        effect.choice,
        figures.count(effect.parameters),
        figures.score(effect.mean),
        signed(effect.difference),
        interval(effect),
        str(effect.rank),
    )


def signed(value: float | None) -> str:
    """Return a difference with its sign."""
    return figures.DASH if value is None else f"{value:+.4f}"


def interval(effect: Effect) -> str:
    """Return the interval of a difference."""
    if effect.ci95 is None:
        return figures.DASH
    return f"{effect.ci95[0]:+.4f} to {effect.ci95[1]:+.4f}"
