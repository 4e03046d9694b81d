"""The models on the HTML page: the large figures, the one table, and what is known beside it."""

from collections.abc import Iterator
from dataclasses import dataclass

from toolchain.report import figures, states, words
from toolchain.report.headline import Row, basis, headline, subject
from toolchain.report.plots import series
from toolchain.report.report import Latency, Report

__all__ = [
    "LOAD_HEADS",
    "Cell",
    "Fact",
    "Head",
    "Kpi",
    "TableLine",
    "heads",
    "kpis",
    "lines",
    "notes",
]

LOAD_HEADS = (
    "target", "fidelity", "runtime", "threads", "scenario", "batch", "tokens",
    "p50 ms", "p90 ms", "p99 ms", "per s", "runs",
)  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Kpi:
    """One large figure with its name and what it is compared with."""

    name: str
    value: str
    unit: str = ""
    detail: str = ""


@dataclass(frozen=True, kw_only=True)
class Head:
    """A column's head; `tip` says what it means, `group` is the head above it."""

    name: str
    group: str
    tip: str = ""


@dataclass(frozen=True, kw_only=True)
class Cell:
    """One figure of the table; `tip` explains a dash or gives the exact value."""

    value: str
    tip: str = ""


@dataclass(frozen=True, kw_only=True)
class Fact:
    """A name and its value; `mono` for digests and paths."""

    name: str
    value: str
    mono: bool = False


@dataclass(frozen=True, kw_only=True)
class TableLine:
    """One model: its row in the table, and what is known beside it.

    `loads` has one row per latency entry with the columns LOAD_HEADS.
    """

    label: str
    name: str
    css: str
    shipped_for: tuple[str, ...]
    cells: tuple[Cell, ...]
    facts: tuple[Fact, ...]
    others: tuple[Fact, ...]
    loads: tuple[tuple[str, ...], ...]


def kpis(report: Report) -> Iterator[Kpi]:
    """Yield the large figures of the model the report is about, those that are known."""
    row = subject(report)
    if row is None:
        return
    others = [other for other in headline(report) if other.name != row.name]
    teacher = next((other for other in others if other.model.role == "teacher"), None)
    yield from _speed_kpis(report, row, teacher)
    if row.file_bytes is not None:
        before = figures.megabytes(teacher.file_bytes) if teacher else figures.DASH
        detail = f"teacher {before} MB" if before != figures.DASH else ""
        yield Kpi(name="file", value=figures.megabytes(row.file_bytes), unit="MB", detail=detail)
    yield from _quality_kpis(row, others)
    if row.peak_bytes is not None:
        before = figures.megabytes(teacher.peak_bytes) if teacher else figures.DASH
        detail = f"teacher {before} MB" if before != figures.DASH else ""
        yield Kpi(
            name="peak memory", value=figures.megabytes(row.peak_bytes), unit="MB", detail=detail
        )
    gates = states.tally(report)
    if gates.total:
        left = [(gates.failed, "failed"), (gates.undecided, "undecided")]
        detail = ", ".join(f"{number} {word}" for number, word in left if number)
        yield Kpi(
            name="gates passed",
            value=str(gates.passed),
            unit=f"of {gates.total}",
            detail=detail or "nothing left open",
        )


def _speed_kpis(report: Report, row: Row, teacher: Row | None) -> Iterator[Kpi]:
    chosen = basis(report)
    if row.speedup is not None and chosen.reference and row.name != chosen.reference:
        slow = words.runtime_of(report.model(chosen.reference))
        alike = words.same_runtime(report, row)
        faster = words.is_faster(row.speedup)
        yield Kpi(
            name=f"{'faster than' if faster else 'the speed of'} the teacher in {slow}",
            value=figures.times(row.speedup.median).removesuffix("x"),
            unit="x",
            detail=alike or figures.at_tokens(chosen.ratio_tokens),
        )
    if row.p50_ms is not None:
        before = f"teacher {figures.milliseconds(teacher.p50_ms)} ms, " if teacher else ""
        yield Kpi(
            name=f"p50 {figures.at_tokens(chosen.tokens)}",
            value=figures.milliseconds(row.p50_ms),
            unit="ms",
            detail=f"{before}{row.fidelity} on {chosen.target}",
        )


def _quality_kpis(row: Row, others: list[Row]) -> Iterator[Kpi]:
    if row.metric is None:
        return
    compared = [
        f"{other.model.role} {figures.score(other.metric.value)}"
        for other in others
        if other.metric and other.model.role in ("teacher", "baseline")
    ]
    beside = ", ".join(dict.fromkeys(compared))
    name = figures.metric_name(row.metric.name)
    own = f"{figures.score(row.metric.value)} on {row.metric.split}"
    if row.kept is None or row.model.role == "teacher":
        yield Kpi(name=f"{name} on {row.metric.split}", value=figures.score(row.metric.value),
                  detail=beside)  # fmt: skip
        return
    value = figures.percent(row.kept).removesuffix(" %")
    detail = f"{own}; {beside}" if beside else own
    yield Kpi(name=f"of the teacher's {name} kept", value=value, unit="%", detail=detail)


def heads(report: Report) -> Iterator[Head]:
    """Yield the table's column heads after the model's name."""
    chosen = basis(report)
    where = figures.at_tokens(chosen.tokens)
    yield Head(name="param.", group="size", tip="parameters")
    yield Head(name="file", group="size", tip="MB of a million bytes on disk")
    yield Head(name="peak", group="size", tip="peak memory of a process of its own, MB")
    for q in (50, 90, 99):
        yield Head(name=f"p{q}", group=f"latency, ms {where}".rstrip(), tip=f"p{q}, milliseconds")
    if chosen.extra is not None:
        yield Head(name=f"p50 @{chosen.extra}", group=f"latency, ms {where}",
                   tip=f"p50 at {chosen.extra} tokens, milliseconds")  # fmt: skip
    yield Head(name="per s", group=f"latency, ms {where}".rstrip(), tip="answers per second")
    metric = figures.metric_name(report.task.metric)
    short = metric if len(metric) <= 22 else f"{metric[:20]}\u2026"
    yield Head(name=short, group="quality", tip=metric)
    yield Head(name="kept", group="quality", tip="part of the teacher's metric kept")
    yield Head(name="speed-up", group="against teacher", tip=words.speedup_words(report))


def notes(report: Report) -> Iterator[str]:
    """Yield what must be known to read the table."""
    yield words.conditions(report)
    if against := words.speedup_words(report):
        yield against
    mixed = {row.model.format for row in headline(report) if row.p50_ms is not None}
    if len(mixed) > 1:
        yield "Between formats the runtime changes too, not only the model."
    if any(words.p99_reason(row) for row in headline(report)):
        yield "A p99 is printed from 1,000 samples upwards."


def lines(report: Report) -> Iterator[TableLine]:
    """Yield every model."""
    rows = headline(report)
    classes = series(rows)
    extra = basis(report).extra is not None
    for row in rows:
        metric = row.metric
        others = metric.others if metric else {}
        yield TableLine(
            label=row.label,
            name=row.name,
            css=classes[row.name],
            shipped_for=row.shipped_for,
            cells=tuple(_cells(row, extra)),
            facts=tuple(_facts(report, row)),
            others=tuple(Fact(name=k, value=figures.score(v)) for k, v in others.items()),
            loads=tuple(_load(entry) for entry in row.model.latency),
        )


def _cells(row: Row, extra: bool) -> Iterator[Cell]:
    def exact(number: int | None, unit: str) -> str:
        return f"{number:,} {unit}" if number is not None else "not known"

    yield Cell(value=figures.count(row.parameters), tip=exact(row.parameters, "parameters"))
    yield Cell(value=figures.megabytes(row.file_bytes), tip=exact(row.file_bytes, "bytes"))
    yield Cell(value=figures.megabytes(row.peak_bytes), tip=exact(row.peak_bytes, "bytes"))
    for value in (row.p50_ms, row.p90_ms):
        yield _latency_cell(value, row.latency)
    reason = words.p99_reason(row) or "not measured"
    yield _latency_cell(row.p99_ms, row.latency, reason)
    if extra:
        yield _latency_cell(row.extra_p50_ms, row.extra)
    yield Cell(value=figures.whole(row.throughput_per_s))
    yield Cell(value=figures.score(row.metric.value if row.metric else None), tip=_interval(row))
    yield Cell(value=figures.percent(row.kept))
    gain = row.speedup
    spread = ""
    if gain is not None and gain.low is not None and gain.high is not None:
        spread = f"quartiles {gain.low:.2f} to {gain.high:.2f} over {gain.rounds} rounds"
    yield Cell(value=figures.times(gain.median if gain else None), tip=spread)


def _latency_cell(value: float | None, entry: Latency | None, reason: str = "") -> Cell:
    shown = words.with_fidelity(figures.milliseconds(value), entry)
    if value is not None and entry is not None:
        return Cell(value=shown, tip=f"{value:.4f} ms, {entry.runs:,} runs")
    return Cell(value=shown, tip=reason or "not measured")


def _interval(row: Row) -> str:
    if row.metric is None:
        return "not evaluated"
    if row.metric.ci95 is None:
        return f"{row.metric.rows:,} rows of {row.metric.split}"
    low, high = row.metric.ci95
    return f"95 % interval {low:.4f} to {high:.4f}, {row.metric.rows:,} rows of {row.metric.split}"


def _facts(report: Report, row: Row) -> Iterator[Fact]:
    model = row.model
    yield Fact(name="name", value=model.name)
    yield Fact(name="path", value=model.path, mono=True)
    yield Fact(name="sha256", value=model.sha256, mono=True)
    if model.cold_start_ms is not None:
        value = f"{figures.milliseconds(model.cold_start_ms)} ms to the first answer"
        yield Fact(name="cold start", value=value)
    for entry in model.decoding:
        if entry.new_tokens_per_s is not None:
            value = (
                f"{entry.new_tokens_per_s:,.0f} new tokens/s, {entry.new_tokens} behind "
                f"{entry.tokens} ({entry.fidelity} on {entry.target}, {entry.runs:,} runs)"
            )
            yield Fact(name="decoding", value=value)
    if model.metric is not None:
        seeds = "" if model.metric.seeds == 1 else f", {model.metric.seeds} seeds"
        yield Fact(name=model.metric.name, value=f"{_interval(row)}{seeds}")
    if model.parity is not None:
        parity = model.parity
        parent = words.parent_words(report, parity.against)
        spec = report.plan.teacher if report.plan else None
        embeds = spec is not None and spec.task == "embed"
        same = "above 0.99" if embeds else "equal decisions"
        value = (
            f"against {parent} on {parity.rows:,} {parity.unit}: largest difference "
            f"{parity.max_abs:.2g}, cosine mean {parity.mean_cosine:.5f}, least "
            f"{parity.min_cosine:.5f}, {same} {figures.percent(parity.agreement)}"
        )
        yield Fact(name="parity", value=value)


def _load(entry: Latency) -> tuple[str, ...]:
    return (
        entry.target,
        entry.fidelity,
        entry.runtime,
        str(entry.threads),
        entry.scenario,
        str(entry.batch),
        str(entry.tokens),
        *(figures.milliseconds(value) for value in (entry.p50_ms, entry.p90_ms, entry.p99_ms)),
        figures.whole(entry.throughput_per_s),
        f"{entry.runs:,}",
    )
