"""The run on the HTML page: gates, time of the training stages, plan, steps, environment."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from toolchain.report import figures, states
from toolchain.report.page_models import Fact
from toolchain.report.report import Report

__all__ = [
    "GateLine",
    "Share",
    "Stage",
    "StepLine",
    "environment",
    "gates",
    "machine",
    "plan_facts",
    "shown",
    "stages",
    "steps",
]

_CAUSES = {"teacher": "s0", "student": "s4", "data": "s2", "evaluation": "s5", "other": "s1"}


@dataclass(frozen=True, kw_only=True)
class GateLine:
    """One gate applied to one model."""

    name: str
    model: str
    limit: str
    observed: str
    word: str
    blocking: bool
    why: str


@dataclass(frozen=True, kw_only=True)
class Share:
    """A part of a stage's wall time, in per cent."""

    name: str
    percent: float
    css: str


@dataclass(frozen=True, kw_only=True)
class Stage:
    """Where the time of one training stage went."""

    name: str
    pace: str
    shares: tuple[Share, ...]


@dataclass(frozen=True, kw_only=True)
class StepLine:
    """One step; `part` is its time as per cent of the longest step's."""

    name: str
    time: str
    part: float
    inputs: tuple[Fact, ...]
    outputs: tuple[Fact, ...]


def gates(report: Report) -> Iterator[GateLine]:
    """Yield every gate with its verdict in words."""
    for gate in report.gates:
        yield GateLine(
            name=gate.gate,
            model=states.gate_model(report, gate),
            limit=gate.limit,
            observed=gate.observed,
            word=states.gate_word(gate),
            blocking=gate.blocking,
            why=gate.why,
        )


def stages(report: Report) -> Iterator[Stage]:
    """Yield the time shares of every stage that has any."""
    for curve in report.curves:
        total = sum(curve.shares.values())
        if total <= 0:
            continue
        pace = ""
        if curve.samples_per_s is not None:
            pace = f"{figures.whole(curve.samples_per_s)} samples/s"
        yield Stage(
            name=f"{curve.run}, {curve.stage}",
            pace=pace,
            shares=tuple(
                Share(name=name, percent=100 * part / total, css=_CAUSES.get(name, "s1"))
                for name, part in curve.shares.items()
                if part > 0
            ),
        )


def plan_facts(report: Report) -> Iterator[Fact]:
    """Yield what was decided before training."""
    plan = report.plan
    if plan is None:
        return
    facts = [
        ("student", str(plan.student or "")),
        ("teacher", str(plan.teacher or "")),
        ("initialisation", plan.init),
        ("layer map", " ".join(f"{s}<-{t}" for s, t in plan.layer_map)),
        ("method", plan.method),
        ("terms", ", ".join(plan.terms)),
    ]
    for name, value in facts:
        if value:
            yield Fact(name=name, value=value)


def steps(report: Report) -> Iterator[StepLine]:
    """Yield every step with its time and digests."""
    longest = max((step.seconds or 0.0 for step in report.steps), default=0.0)
    for step in report.steps:
        time = "kept from before" if step.skipped else figures.duration(step.seconds)
        part = 0.0 if step.skipped or not longest else 100 * (step.seconds or 0.0) / longest
        yield StepLine(
            name=step.name,
            time=time,
            part=part,
            inputs=tuple(_digests(step.inputs)),
            outputs=tuple(_digests(step.outputs)),
        )


def _digests(digests: Mapping[str, str]) -> Iterator[Fact]:
    for name, digest in digests.items():
        yield Fact(name=name, value=digest, mono=True)


def environment(report: Report) -> Iterator[Fact]:
    """Yield the task's rows and the machine's facts, as words."""
    rows = [f"{n:,} {split}" for split, n in report.task.rows.items() if n is not None]
    if rows:
        yield Fact(name="rows", value=", ".join(rows))
    yield from machine(report.environment)
    if report.license:
        yield Fact(name="licence of the teacher's weights", value=report.license)


def machine(facts: Mapping[str, object]) -> Iterator[Fact]:
    """Yield the facts of a machine and its software, as words."""
    for name, value in facts.items():
        if name.endswith("_bytes") and isinstance(value, int):
            yield Fact(name=name.removesuffix("_bytes"), value=f"{value / 1e9:.1f} GB")
        elif said := shown(value):
            yield Fact(name=name.replace("_", " "), value=said)


def shown(value: object) -> str:
    """Return a value of report.json in words; a flag is its name where it is set."""
    if isinstance(value, Mapping):
        return ", ".join(_pair(str(key), item) for key, item in value.items() if item is not False)
    if isinstance(value, (list, tuple)):
        return ", ".join(shown(item) for item in value)
    if isinstance(value, float):
        return f"{value:.4g}"
    return "" if value is None else str(value)


def _pair(key: str, value: object) -> str:
    return key if value is True else f"{key} {shown(value)}"
