"""The one table: every model in one row, compared on the same target under the same load."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from toolchain.measurement import Fidelity, Metric
from toolchain.report import figures
from toolchain.report.report import Latency, Model, Report, Tokens

__all__ = [
    "Basis",
    "Row",
    "Speedup",
    "basis",
    "fixed_lengths",
    "gain",
    "headline",
    "label_of",
    "labels",
    "latency_of",
    "subject",
]

# The fixed length every report shows, where it was measured.
_USUAL_TOKENS = 32
_SHORT_NAME = 20

_ROLES = ("teacher", "baseline", "student")
_FORMATS = ("torch", "onnx", "openvino", "litert", "executorch", "ort", "optimum")
_PRECISIONS = (
    "fp32",
    "bf16",
    "fp16",
    "int8",
    "int8_smooth",
    "int8_mixed",
    "int8_static",
    "int8_reduced",
    "int8_weights",
    "int4_weights",
)
_FIDELITIES: tuple[Fidelity, ...] = ("measured", "emulated", "estimated")
_FORMAT_WORDS = {
    "torch": "PyTorch",
    "onnx": "ONNX",
    "openvino": "OpenVINO",
    "litert": "LiteRT",
    "executorch": "ExecuTorch",
    "ort": "ORT",
}


@dataclass(frozen=True, kw_only=True)
class Basis:
    """What the rows are compared on.

    Percentiles are those at `tokens`; `extra` is a second length of which p50 is shown; speed-ups
    are against the model `reference` at `ratio_tokens`. None where nothing was measured.
    """

    target: str | None
    tokens: Tokens | None
    extra: int | None
    reference: str | None
    ratio_tokens: Tokens | None


@dataclass(frozen=True, kw_only=True)
class Speedup:
    """How many times faster than the reference; quartiles only where rounds alternated."""

    median: float
    low: float | None = None
    high: float | None = None
    rounds: int = 0


@dataclass(frozen=True, kw_only=True)
class Row:
    """One model in the table; None is what nobody measured."""

    name: str
    label: str
    model: Model
    parameters: int | None
    file_bytes: int | None
    peak_bytes: int | None
    latency: Latency | None
    extra: Latency | None
    metric: Metric | None
    kept: float | None
    speedup: Speedup | None
    shipped_for: tuple[str, ...]

    @property
    def p50_ms(self) -> float | None:
        """Median latency in milliseconds."""
        return self.latency.p50_ms if self.latency else None

    @property
    def p90_ms(self) -> float | None:
        """90th percentile in milliseconds."""
        return self.latency.p90_ms if self.latency else None

    @property
    def p99_ms(self) -> float | None:
        """99th percentile in milliseconds."""
        return self.latency.p99_ms if self.latency else None

    @property
    def extra_p50_ms(self) -> float | None:
        """Median latency in milliseconds at the basis' second length."""
        return self.extra.p50_ms if self.extra else None

    @property
    def throughput_per_s(self) -> float | None:
        """Answers per second, one after another."""
        return self.latency.throughput_per_s if self.latency else None

    @property
    def fidelity(self) -> Fidelity | None:
        """What the latency figures are worth."""
        return self.latency.fidelity if self.latency else None


def _rank(order: Sequence[str], key: str) -> int:
    return order.index(key) if key in order else len(order)


def _in_order(report: Report) -> list[Model]:
    return sorted(
        report.models,
        key=lambda m: (
            _rank(_ROLES, m.role),
            _rank(_FORMATS, m.format),
            _rank(_PRECISIONS, m.precision),
        ),
    )


def label_of(model: Model) -> str:
    """Return what a model is in a few words: `student ONNX int8`."""
    return f"{model.role} {_FORMAT_WORDS.get(model.format, model.format)} {model.precision}"


def labels(report: Report) -> dict[str, str]:
    """Return each model's label by name.

    Models that would share one carry their name, or a number where the names are long.
    """
    words = [label_of(model) for model in report.models]
    long = {
        word
        for model, word in zip(report.models, words, strict=True)
        if words.count(word) > 1 and len(model.name) > _SHORT_NAME
    }
    found: dict[str, str] = {}
    for index, (model, word) in enumerate(zip(report.models, words, strict=True)):
        if word in long:
            word = f"{word} ({words[: index + 1].count(word)})"
        elif words.count(word) > 1:
            word = f"{word} ({model.name})"
        found[model.name] = word
    return found


def _single_stream(model: Model) -> Iterable[Latency]:
    return (e for e in model.latency if e.scenario == "single-stream" and e.batch == 1)


def latency_of(model: Model, target: str | None, tokens: Tokens | None) -> Latency | None:
    """Return the single-stream latency of one sequence at a time, the most faithful there is."""
    entries = [e for e in _single_stream(model) if e.target == target and e.tokens == tokens]
    return min(entries, key=lambda e: (_FIDELITIES.index(e.fidelity), e.threads), default=None)


def _target(report: Report) -> str | None:
    """Return the target with the most models, measured ones before all others."""
    seen: dict[str, list[int]] = {}
    for model in report.models:
        for entry in _single_stream(model):
            ranks = seen.setdefault(entry.target, [0] * len(_FIDELITIES))
            ranks[_FIDELITIES.index(entry.fidelity)] += 1
    return max(seen, key=lambda name: seen[name], default=None)


def fixed_lengths(report: Report, target: str | None) -> list[int]:
    """Return the fixed lengths (in tokens) at which any model was timed on a target, ascending."""
    return sorted(
        {
            entry.tokens
            for model in report.models
            for entry in _single_stream(model)
            if entry.target == target and isinstance(entry.tokens, int)
        }
    )


def basis(report: Report) -> Basis:
    """Choose what the table compares: the best covered target, its loads, the teacher."""
    target = _target(report)
    lengths = fixed_lengths(report, target)
    usual = min(lengths, key=lambda n: abs(n - _USUAL_TOKENS), default=None)
    on_task = any(latency_of(model, target, "task") for model in report.models)
    tokens: Tokens | None = "task" if on_task else usual
    extra = usual if on_task else None
    teachers = [model for model in _in_order(report) if model.role == "teacher"]
    timed = [m for m in report.models if any(e.target == target for e in m.latency)]
    first = next((teacher for teacher in teachers if teacher in timed), None)
    reference = first.name if first and len(timed) > 1 else None
    return Basis(
        target=target,
        tokens=tokens,
        extra=extra,
        reference=reference,
        ratio_tokens=_ratio_tokens(report, reference, [tokens, extra]),
    )


def _ratio_tokens(
    report: Report, reference: str | None, wanted: Sequence[Tokens | None]
) -> Tokens | None:
    """Prefer a load with alternating rounds: their ratios hold although the machine is busy."""
    paired = [ratio.tokens for ratio in report.ratios if ratio.slow == reference]
    for tokens in wanted:
        if tokens in paired:
            return tokens
    return paired[0] if paired else next((t for t in wanted if t is not None), None)


def gain(report: Report, slow: str, fast: str, tokens: Tokens | None) -> Speedup | None:
    """Return how many times faster `fast` is: from alternating rounds, else from two medians."""
    for ratio in report.ratios:
        if (ratio.slow, ratio.fast, ratio.tokens) == (slow, fast, tokens):
            return Speedup(median=ratio.median, low=ratio.low, high=ratio.high, rounds=ratio.rounds)
    target = _target(report)
    before = latency_of(report.model(slow), target, tokens)
    after = latency_of(report.model(fast), target, tokens)
    if before is None or after is None or not before.p50_ms or not after.p50_ms:
        return None
    return Speedup(median=before.p50_ms / after.p50_ms)


def _kept(metric: Metric | None) -> float | None:
    """Return the part of the teacher's metric; of a loss more is worse, so no part of it is."""
    if metric is None or not figures.higher_is_better(metric.name):
        return None
    return metric.kept


def _row(report: Report, chosen: Basis, model: Model, label: str) -> Row:
    return Row(
        name=model.name,
        label=label,
        model=model,
        parameters=model.parameters,
        file_bytes=model.file_bytes,
        peak_bytes=model.peak_bytes,
        latency=latency_of(model, chosen.target, chosen.tokens),
        extra=latency_of(model, chosen.target, chosen.extra),
        metric=model.metric,
        kept=_kept(model.metric),
        speedup=gain(report, chosen.reference, model.name, chosen.ratio_tokens)
        if chosen.reference
        else None,
        shipped_for=tuple(
            target
            for target, shipped in report.shipped.items()
            if shipped is not None and shipped.model == model.name
        ),
    )


def headline(report: Report) -> list[Row]:
    """Return the rows of the one table: teacher, baseline, student; PyTorch before ONNX."""
    chosen, words = basis(report), labels(report)
    return [_row(report, chosen, model, words[model.name]) for model in _in_order(report)]


def subject(report: Report) -> Row | None:
    """Return the row the report is about: what is shipped, else the last student, else any."""
    rows = headline(report)
    shipped = [row for row in rows if row.shipped_for]
    main = basis(report).target
    for row in shipped:
        if main in row.shipped_for:
            return row
    students = [row for row in rows if row.model.role == "student"]
    for group in (shipped, students, rows):
        if group:
            return group[-1]
    return None
