"""What is measured and how it is written down: data only.

Verification and benchmarking meet only here. The shapes follow report.json, schema 1.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from toolchain.stats import percentile

__all__ = [
    "Fidelity",
    "Footprint",
    "Load",
    "Measurement",
    "Metric",
    "Parity",
    "Role",
    "Scenario",
    "Verdict",
]

Fidelity = Literal["measured", "emulated", "estimated"]
Role = Literal["teacher", "student", "baseline"]
Scenario = Literal["single-stream", "offline", "server"]


@dataclass(frozen=True, kw_only=True)
class Load:
    """One way of asking: `tokens` is a fixed length, or "task" for the data's own lengths.

    With `new_tokens`, a run reads so many tokens and goes on with these, one by one.
    """

    tokens: int | Literal["task"]
    scenario: Scenario = "single-stream"
    batch: int = 1
    new_tokens: int = 0
    warmup: int = 5
    min_seconds: float = 2.0
    min_runs: int = 100


@dataclass(frozen=True, kw_only=True)
class Measurement:
    """Latency samples of one model under one load.

    `samples_ns` are the raw durations in the order taken, `round_sizes` how many belong to each
    of the alternating rounds. Percentiles are derived, never stored alone, and None without
    enough samples. `timer_ns` is what reading the clock itself costs; it is not subtracted.
    """

    model: str
    target: str
    fidelity: Fidelity
    runtime: str
    threads: int
    load: Load
    samples_ns: tuple[int, ...]
    round_sizes: tuple[int, ...]
    timer_ns: int | None = None

    def percentile_ms(self, q: float) -> float | None:
        """Return the `q`-th percentile in milliseconds, or None without enough samples."""
        value = percentile(self.samples_ns, q)
        return None if value is None else value / 1e6

    @property
    def new_tokens_per_s(self) -> float | None:
        """New tokens per second, reading the prompt included; None under loads without any."""
        p50_ms = self.percentile_ms(50)
        return 1e3 * self.load.new_tokens / p50_ms if self.load.new_tokens and p50_ms else None

    def rounds_ns(self) -> list[tuple[int, ...]]:
        """Return the samples split by round."""
        rounds, start = [], 0
        for size in self.round_sizes:
            rounds.append(self.samples_ns[start : start + size])
            start += size
        return rounds

    def as_json(self) -> dict[str, Any]:
        """Return the `latency[]` entry of report.json, raw samples included."""
        total_s = sum(self.samples_ns) / 1e9
        runs = len(self.samples_ns)
        return {
            "target": self.target,
            "fidelity": self.fidelity,
            "runtime": self.runtime,
            "threads": self.threads,
            "batch": self.load.batch,
            "tokens": self.load.tokens,
            **({"new_tokens": self.load.new_tokens} if self.load.new_tokens else {}),
            "scenario": self.load.scenario,
            "p50_ms": self.percentile_ms(50),
            "p90_ms": self.percentile_ms(90),
            "p99_ms": self.percentile_ms(99),
            "throughput_per_s": runs * self.load.batch / total_s if total_s else None,
            "runs": runs,
            "timer_ns": self.timer_ns,
            "round_sizes": list(self.round_sizes),
            "samples": list(self.samples_ns),
        }


@dataclass(frozen=True, kw_only=True)
class Footprint:
    """What one model costs in a process of its own: milliseconds to the first answer, peak bytes.

    `baseline_bytes` is the peak before the model was opened (interpreter and runtime).
    """

    model: str
    cold_start_ms: float
    peak_bytes: int
    baseline_bytes: int


@dataclass(frozen=True, kw_only=True)
class Parity:
    """How far outputs are from the parent's on the same inputs.

    `max_abs` over all logits; `cosine` of all logits taken as one vector, the other cosines per
    row; `agreement` the part of equal decisions. A row is what has an answer of its own: a row of
    the data, or a token of one, as `unit` says.
    """

    against: str
    max_abs: float
    cosine: float
    mean_cosine: float
    min_cosine: float
    agreement: float
    rows: int
    unit: Literal["ends", "rows", "tokens"] = "rows"

    def as_json(self) -> dict[str, Any]:
        """Return the `parity` entry of report.json."""
        return asdict(self)


@dataclass(frozen=True, kw_only=True)
class Metric:
    """A task metric on one split; `ci95` is None where no interval is known for it."""

    name: str
    value: float
    split: str
    rows: int
    ci95: tuple[float, float] | None = None
    kept: float | None = None
    seeds: int = 1
    others: Mapping[str, float] = field(default_factory=dict)

    def as_json(self) -> dict[str, Any]:
        """Return the `metric` entry of report.json."""
        entry = asdict(self)
        entry["ci95"] = list(self.ci95) if self.ci95 else None
        return entry


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """One gate applied: `passed` is None when it could not be decided here, and `why` says so.

    `model` is the model it was applied to; `blocking` gates fail the run (exit 3), the others
    only keep a variant from being shipped.
    """

    gate: str
    model: str
    limit: str
    observed: str
    passed: bool | None
    why: str
    blocking: bool = False

    def as_json(self) -> dict[str, Any]:
        """Return the `gates[]` entry of report.json."""
        entry = asdict(self)
        entry["name"] = entry.pop("gate")
        return entry
