"""What the figures say in sentences; every sentence is built from the data, none is fixed."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from toolchain.report import figures
from toolchain.report.headline import Row, Speedup, basis, gain, headline, labels, subject
from toolchain.report.report import Latency, Model, Ratio, Report, Tokens

__all__ = [
    "Comparison",
    "comparisons",
    "conditions",
    "is_faster",
    "legend",
    "license_words",
    "listed",
    "other_loads",
    "p99_reason",
    "parent_words",
    "runtime_of",
    "runtime_words",
    "same_runtime",
    "sentence",
    "speedup_words",
    "thread_count",
    "with_fidelity",
]


_RUNTIMES = {
    "pytorch": "PyTorch",
    "onnxruntime": "ONNX Runtime",
    "openvino": "OpenVINO",
    "litert": "LiteRT",
    "executorch": "ExecuTorch",
}
# What runs a format, where it is not called like it.
_RUN_BY = {
    "torch": "pytorch",
    "onnx": "onnxruntime",
    "ort": "onnxruntime",
    "optimum": "onnxruntime",
}


def runtime_of(model: Model) -> str:
    """Return what runs a model, in words."""
    return runtime_words(_RUN_BY.get(model.format, model.format))


def p99_reason(row: Row) -> str:
    """Return why a p99 is a dash, or nothing where it is not or was not asked for."""
    if row.latency is None or row.p99_ms is not None:
        return ""
    return f"needs 1,000 samples, {row.latency.runs:,} were taken"


def sentence(report: Report) -> str:
    """Return the one sentence to quote: what it is, how fast, how small, how good."""
    row = subject(report)
    if row is None:
        return "Nothing was built or measured."
    if report.shipped and not any(report.shipped.values()):
        return f"Nothing is shipped: no variant passed its gates for {listed(report.shipped)}."
    who = _subject_words(report, row)
    teachers = [other for other in headline(report) if other.model.role == "teacher"]
    if row.model.role == "teacher" or not teachers:
        said = [_own_speed(report, row), _own_size(row), _own_quality(row)]
    else:
        said = [_speed(report, row), _size(row, teachers), _quality(row, teachers)]
    known = [part for part in said if part]
    return f"{who}: {', '.join(known)}." if known else f"{who}: nothing was measured."


def listed(names: Iterable[str]) -> str:
    """Join names as in a sentence: `a, b and c`."""
    words = list(names)
    return " and ".join(words) if len(words) < 3 else f"{', '.join(words[:-1])} and {words[-1]}"


def _subject_words(report: Report, row: Row) -> str:
    if row.model.role != "student":
        return f"The {row.model.role} in {runtime_of(row.model)}, {row.model.precision}"
    spec = report.plan.student if report.plan else None
    shape = f"{spec.layers}-layer student" if spec else "The student"
    return f"{shape}, {row.model.precision}"


def is_faster(gained: Speedup | Ratio) -> bool:
    """Return whether a ratio shows a gain: its quartiles, where known, lie above one."""
    return (gained.median if gained.low is None else gained.low) > 1


def _factor(gained: Speedup | Ratio) -> str:
    """A factor in words; a spread across 1 is not called a difference."""
    low, high = gained.low, gained.high
    if low is not None and high is not None and low <= 1 <= high:
        return "not measurably faster or slower"
    if gained.median >= 1:
        return f"{figures.times(gained.median)} faster"
    return f"{figures.times(1 / gained.median)} slower"


def _speed(report: Report, row: Row) -> str:
    faster, chosen = row.speedup, basis(report)
    if faster is None or chosen.reference is None:
        return _own_speed(report, row)
    reference = report.model(chosen.reference)
    words = f"{_factor(faster)} than the teacher in {runtime_of(reference)}"
    same = same_runtime(report, row)
    if same:
        words += f" ({same})"
    return words + _fidelity_word(row)


def same_runtime(report: Report, row: Row) -> str:
    """Return the gain without the change of runtime, where the teacher was timed in both."""
    chosen = basis(report)
    for teacher in headline(report):
        if teacher.model.role != "teacher":
            continue
        if teacher.name != chosen.reference and teacher.model.format == row.model.format:
            alike = gain(report, teacher.name, row.name, chosen.ratio_tokens)
            if alike is not None:
                return f"{figures.times(alike.median)} with both in {runtime_of(teacher.model)}"
    return ""


def _own_speed(report: Report, row: Row) -> str:
    if row.p50_ms is None:
        return ""
    where = figures.at_tokens(basis(report).tokens)
    return f"p50 {figures.milliseconds(row.p50_ms)} ms {where}{_fidelity_word(row)}"


def _fidelity_word(row: Row) -> str:
    return f" ({row.fidelity})" if row.fidelity not in (None, "measured") else ""


def _size(row: Row, teachers: list[Row]) -> str:
    size, teacher = row.file_bytes, teachers[0].file_bytes
    if size is None or teacher is None:
        return _own_size(row)
    return f"{figures.megabytes(size)} MB instead of {figures.megabytes(teacher)} MB"


def _own_size(row: Row) -> str:
    return "" if row.file_bytes is None else f"{figures.megabytes(row.file_bytes)} MB"


def _quality(row: Row, teachers: list[Row]) -> str:
    if row.metric is None:
        return _own_quality(row)
    if not figures.higher_is_better(row.metric.name):
        # A part of a loss is kept by losing more: both figures say it plainly.
        beside = teachers[0].metric
        against = f" against {figures.score(beside.value)}" if beside else ""
        return f"{_own_quality(row)}{against}"
    if row.kept is None:
        return _own_quality(row)
    metric = figures.metric_name(row.metric.name)
    return f"keeps {figures.percent(row.kept)} of its {metric} on {row.metric.split}"


def _own_quality(row: Row) -> str:
    if row.metric is None:
        return ""
    metric = figures.metric_name(row.metric.name)
    return f"{metric} {figures.score(row.metric.value)} on {row.metric.split}"


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """How much faster one model is than another, in words.

    `factor`, `quartiles` and `rounds` are those at `load`; `others` has factor and quartiles at
    every other load, in the order of `other_loads`, dashes where there is none.
    """

    fast: str
    slow: str
    factor: str
    quartiles: str
    rounds: int
    load: str
    runtime_changed: bool
    others: tuple[tuple[str, str], ...] = ()

    @property
    def terms(self) -> str:
        """How it was measured: `10 rounds at 32 tokens`."""
        return f"{self.rounds} rounds {self.load}"

    def __str__(self) -> str:
        """As one sentence without a full stop."""
        note = "; part of it is the runtime" if self.runtime_changed else ""
        spread = f"{self.quartiles}, {self.rounds} rounds{note}"
        return f"{self.fast}: {self.factor} than {self.slow} {self.load} ({spread})"


def other_loads(report: Report) -> list[Tokens]:
    """Return the loads besides the table's at which ratios were taken, ascending."""
    main = basis(report).ratio_tokens
    found = {ratio.tokens for ratio in report.ratios} - {main}
    return sorted(found, key=lambda tokens: (tokens == "task", str(tokens).zfill(9)))


def comparisons(report: Report) -> list[Comparison]:
    """Return every pair of models compared by alternating rounds, what is shipped first."""
    words = labels(report)
    shipped = {row.name for row in headline(report) if row.shipped_for}
    pairs: dict[tuple[str, str], dict[Tokens, Ratio]] = {}
    for ratio in report.ratios:
        pairs.setdefault((ratio.fast, ratio.slow), {})[ratio.tokens] = ratio
    main, loads = basis(report).ratio_tokens, other_loads(report)
    return [
        _comparison(report, by_load, main, loads, words)
        for _, by_load in sorted(pairs.items(), key=lambda item: item[0][0] not in shipped)
    ]


def _comparison(
    report: Report,
    by_load: Mapping[Tokens, Ratio],
    main: Tokens | None,
    loads: Sequence[Tokens],
    words: Mapping[str, str],
) -> Comparison:
    ratio = next((r for tokens, r in by_load.items() if tokens == main), None)
    ratio = ratio or next(iter(by_load.values()))
    changed = report.model(ratio.slow).format != report.model(ratio.fast).format
    others = [by_load.get(tokens) for tokens in loads]
    return Comparison(
        fast=words[ratio.fast],
        slow=words[ratio.slow],
        factor=_factor(ratio),
        quartiles=_quartiles(ratio),
        rounds=ratio.rounds,
        load=figures.at_tokens(ratio.tokens),
        runtime_changed=changed and ratio.median > 1,
        others=tuple(
            (figures.times(r.median), _quartiles(r)) if r else (figures.DASH, "") for r in others
        ),
    )


def _quartiles(ratio: Ratio) -> str:
    return f"{ratio.low:.2f} to {ratio.high:.2f}"


def parent_words(report: Report, against: str) -> str:
    """Return what outputs were compared with: a model's label where it is one of them."""
    return labels(report).get(against, against)


def legend(report: Report) -> list[str]:
    """Return which model a numbered label stands for."""
    words = labels(report)
    return [
        f"{word} is {name}"
        for name, word in words.items()
        if word.endswith(")") and not word.endswith(f"({name})")
    ]


def conditions(report: Report) -> str:
    """Return under what load the table's latencies were taken, or that there are none."""
    chosen = basis(report)
    entries = [row.latency for row in headline(report) if row.latency]
    if not entries:
        return "No latency was measured."
    fidelity = listed(dict.fromkeys(entry.fidelity for entry in entries))
    runtimes = listed(dict.fromkeys(runtime_words(entry.runtime) for entry in entries))
    threads = listed(dict.fromkeys(thread_count(entry.threads) for entry in entries))
    where = figures.at_tokens(chosen.tokens)
    return (
        f"Latency is single-stream, one sequence at a time, {where}, "
        f"{fidelity} on {chosen.target} with {runtimes}, {threads}."
    )


def speedup_words(report: Report) -> str:
    """Return what the speed-up column is against, or nothing where there is none."""
    chosen = basis(report)
    if chosen.reference is None:
        return ""
    against = labels(report)[chosen.reference]
    where = figures.at_tokens(chosen.ratio_tokens)
    paired = any(row.speedup and row.speedup.rounds for row in headline(report))
    how = "the median over alternating rounds" if paired else "the quotient of two medians"
    return f"Speed-up is against {against} {where}, {how}."


def with_fidelity(words: str, entry: Latency | None) -> str:
    """Return a latency in words; one that was not measured on the device says so."""
    if entry is None or entry.fidelity == "measured" or words == figures.DASH:
        return words
    return f"{words} ({entry.fidelity})"


def runtime_words(runtime: str) -> str:
    """Return a runtime's own name for the name of its adapter."""
    return _RUNTIMES.get(runtime, runtime)


def thread_count(number: int) -> str:
    """Return a number of threads in words."""
    return "1 thread" if number == 1 else f"{number} threads"


def license_words(report: Report) -> str:
    """Return what is known about the licence."""
    return report.license or "unknown: the teacher does not state one"
