"""Report: everything one run found out, as one data object; report.json, schema 1, is its form.

Renderers only format what stands here. A figure nobody measured is None, never a guess.
"""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, fields, is_dataclass
from typing import Literal

from pydantic import TypeAdapter, ValidationError

from toolchain.errors import UsageError
from toolchain.measurement import Fidelity, Measurement, Metric, Parity, Role, Scenario, Verdict
from toolchain.spec import ModelSpec

__all__ = [
    "SCHEMA",
    "Curve",
    "Decoding",
    "Evals",
    "Latency",
    "Model",
    "Plan",
    "Points",
    "Ratio",
    "Report",
    "Shipped",
    "Step",
    "Task",
    "Tokens",
]

SCHEMA = 1

Tokens = int | Literal["task"]


@dataclass(frozen=True, kw_only=True)
class Task:
    """What the models were trained for; `rows` counts the rows of each split."""

    name: str
    metric: str
    rows: Mapping[str, int | None] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Latency:
    """How long one model took under one load: milliseconds, and raw `samples` in nanoseconds.

    `round_sizes` says how many samples belong to each of the alternating rounds; `timer_ns` what
    reading the clock itself costs.
    """

    target: str
    fidelity: Fidelity
    runtime: str
    threads: int
    batch: int
    tokens: Tokens
    scenario: Scenario
    p50_ms: float | None
    p90_ms: float | None
    p99_ms: float | None
    throughput_per_s: float | None
    runs: int
    round_sizes: tuple[int, ...] = ()
    samples: tuple[int, ...] = ()
    timer_ns: int | None = None

    @staticmethod
    def of(measurement: Measurement) -> "Latency":
        """Return the entry for one measurement."""
        return Latency(
            target=measurement.target,
            fidelity=measurement.fidelity,
            runtime=measurement.runtime,
            threads=measurement.threads,
            batch=measurement.load.batch,
            tokens=measurement.load.tokens,
            scenario=measurement.load.scenario,
            p50_ms=measurement.percentile_ms(50),
            p90_ms=measurement.percentile_ms(90),
            p99_ms=measurement.percentile_ms(99),
            throughput_per_s=measurement.as_json()["throughput_per_s"],
            runs=len(measurement.samples_ns),
            round_sizes=measurement.round_sizes,
            samples=measurement.samples_ns,
            timer_ns=measurement.timer_ns,
        )


@dataclass(frozen=True, kw_only=True)
class Decoding:
    """How fast a decoder goes on with a text: a run reads `tokens` and adds `new_tokens`.

    `new_tokens_per_s` follows from the median run, the reading included; `samples` in nanoseconds.
    """

    target: str
    fidelity: Fidelity
    runtime: str
    threads: int
    tokens: Tokens
    new_tokens: int
    new_tokens_per_s: float | None
    runs: int
    round_sizes: tuple[int, ...] = ()
    samples: tuple[int, ...] = ()

    @staticmethod
    def of(measurement: Measurement) -> "Decoding":
        """Return the entry for one measurement."""
        return Decoding(
            target=measurement.target,
            fidelity=measurement.fidelity,
            runtime=measurement.runtime,
            threads=measurement.threads,
            tokens=measurement.load.tokens,
            new_tokens=measurement.load.new_tokens,
            new_tokens_per_s=measurement.new_tokens_per_s,
            runs=len(measurement.samples_ns),
            round_sizes=measurement.round_sizes,
            samples=measurement.samples_ns,
        )


@dataclass(frozen=True, kw_only=True)
class Model:
    """One model file and what is known about it. `name` is unique: gates and ratios refer to it."""

    name: str
    role: Role
    format: str
    precision: str
    path: str = ""
    sha256: str = ""
    parameters: int | None = None
    file_bytes: int | None = None
    peak_bytes: int | None = None
    cold_start_ms: float | None = None
    metric: Metric | None = None
    parity: Parity | None = None
    latency: tuple[Latency, ...] = ()
    decoding: tuple[Decoding, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Step:
    """One step of the run; `inputs` and `outputs` map names to digests."""

    name: str
    seconds: float | None = None
    inputs: Mapping[str, str] = field(default_factory=dict)
    outputs: Mapping[str, str] = field(default_factory=dict)
    skipped: bool = False


@dataclass(frozen=True, kw_only=True)
class Shipped:
    """The variant that goes to a target."""

    model: str
    precision: str
    path: str


@dataclass(frozen=True, kw_only=True)
class Ratio:
    """How many times faster `fast` is than `slow`: median and quartiles over alternating rounds."""

    slow: str
    fast: str
    tokens: Tokens
    median: float
    low: float
    high: float
    rounds: int


@dataclass(frozen=True, kw_only=True)
class Points:
    """A loss curve: one entry per logged step; `parts` holds the terms of the loss by name."""

    step: tuple[int, ...] = ()
    loss: tuple[float | None, ...] = ()
    lr: tuple[float | None, ...] = ()
    parts: Mapping[str, tuple[float | None, ...]] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Evals:
    """The task metric at some steps."""

    step: tuple[int, ...] = ()
    metric: tuple[float | None, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Curve:
    """How one training stage went.

    `shares` are parts of its wall time by cause (teacher, student, data, evaluation, other).
    """

    run: Literal["finetune", "assistant", "distill", "baseline"]
    stage: str
    points: Points = Points()
    evals: Evals = Evals()
    samples_per_s: float | None = None
    shares: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What was decided before training, and why. `layer_map` pairs (student, teacher) layers."""

    student: ModelSpec | None = None
    teacher: ModelSpec | None = None
    init: str = ""
    layer_map: tuple[tuple[int, int], ...] = ()
    method: str = ""
    terms: tuple[str, ...] = ()
    reasons: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Report:
    """One run. `shipped` maps a target to its variant, or to None where no variant passed.

    `created` is ISO 8601. `base_model` is the teacher's hub id or its folder's name, `license`
    that of its weights, which a student inherits.
    """

    schema: int = SCHEMA
    created: str
    command: str
    task: Task
    recipe_digest: str = ""
    warnings: tuple[str, ...] = ()
    environment: Mapping[str, object] = field(default_factory=dict)
    models: tuple[Model, ...] = ()
    gates: tuple[Verdict, ...] = ()
    steps: tuple[Step, ...] = ()
    shipped: Mapping[str, Shipped | None] = field(default_factory=dict)
    ratios: tuple[Ratio, ...] = ()
    curves: tuple[Curve, ...] = ()
    plan: Plan | None = None
    base_model: str | None = None
    license: str | None = None

    def model(self, name: str) -> Model:
        """Return the model called `name`. Raises UsageError when there is none."""
        for model in self.models:
            if model.name == name:
                return model
        raise UsageError(f"report: no model {name!r}", f"known: {', '.join(self.names)}")

    @property
    def names(self) -> tuple[str, ...]:
        """Names of all models, in order."""
        return tuple(model.name for model in self.models)

    @property
    def digest(self) -> str:
        """Short form of the recipe's digest, for people."""
        return self.recipe_digest.removeprefix("sha256:")[:12]

    def as_json(self) -> dict[str, object]:
        """Return report.json as plain lists, dicts, strings and finite numbers."""
        entries = {f.name: _plain(getattr(self, f.name)) for f in fields(self)}
        entries["gates"] = [_plain(gate.as_json()) for gate in self.gates]
        return entries

    @staticmethod
    def from_json(content: Mapping[str, object], *, where: str = "report.json") -> "Report":
        """Read what `as_json` wrote; unknown keys are ignored, as later versions may add some.

        Raises UsageError, naming `where`, for another schema, a missing key or a wrong value.
        """
        schema = content.get("schema")
        if schema != SCHEMA:
            raise UsageError(
                f"{where}: schema {schema!r} found, schema {SCHEMA} expected",
                "make the report again with this version of toolchain",
            )
        try:
            report = TypeAdapter(Report).validate_python(_renamed_gates(content))
        except ValidationError as error:
            first = error.errors()[0]
            at = ".".join(str(part) for part in first["loc"])
            raise UsageError(f"{where}: {at}: {first['msg']}") from None
        report.validate(where=where)
        return report

    def validate(self, *, where: str = "report") -> None:
        """Refuse what could not be rendered truthfully. Raises UsageError naming `where`."""
        for problem in self._problems():
            raise UsageError(f"{where}: {problem}")

    def _problems(self) -> Iterator[str]:
        if self.schema != SCHEMA:
            yield f"schema {self.schema!r} found, schema {SCHEMA} expected"
        names = self.names
        for name in names:
            if names.count(name) > 1:
                yield f"two models are called {name!r}; gates and ratios could mean either"
        for target, shipped in self.shipped.items():
            if shipped is not None and shipped.model not in names:
                yield f"shipped.{target} names {shipped.model!r}, which is not among the models"
        for ratio in self.ratios:
            for name in (ratio.slow, ratio.fast):
                if name not in names:
                    yield f"a ratio names {name!r}, which is not among the models"
        for curve in self.curves:
            yield from _uneven(curve)


def _uneven(curve: Curve) -> Iterator[str]:
    columns = {"loss": curve.points.loss, "lr": curve.points.lr, **curve.points.parts}
    steps = len(curve.points.step)
    for name, column in columns.items():
        if column and len(column) != steps:
            yield f"curve {curve.run}/{curve.stage}: {len(column)} of {name} for {steps} steps"
    if len(curve.evals.metric) != len(curve.evals.step):
        yield f"curve {curve.run}/{curve.stage}: evals has unequal steps and metrics"


def _renamed_gates(content: Mapping[str, object]) -> dict[str, object]:
    """Return the content with each gate's JSON key `name` under its Python name `gate`."""
    gates = content.get("gates", [])
    if not isinstance(gates, list):
        return dict(content)
    renamed = [
        {**gate, "gate": gate["name"]} if isinstance(gate, Mapping) and "name" in gate else gate
        for gate in gates
    ]
    return {**content, "gates": renamed}


def _plain(value: object) -> object:
    if is_dataclass(value) and not isinstance(value, type):
        return {f.name: _plain(getattr(value, f.name)) for f in fields(value)}
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, (tuple, list)):
        return [_plain(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value
