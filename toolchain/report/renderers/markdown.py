"""report.md: the report for a pull request or a wiki."""

import re
from collections.abc import Iterable, Sequence

from toolchain.report import figures, states, words
from toolchain.report.headline import Row, basis, headline
from toolchain.report.page_run import shown
from toolchain.report.report import Report

__all__ = ["cell", "escaped", "model_table", "render", "table"]

_SPECIAL = re.compile(
    r"[\\`*\[\]|]"
    r"|<(?=[A-Za-z/!?])"
    r"|(?<!\w)_|_(?!\w)"
    r"|~(?=~)"
    r"|&(?=#?\w+;)"
)


def cell(value: object) -> str:
    """Return words that Markdown shows as they are inside a line or a table's cell."""
    return _SPECIAL.sub(r"\\\g<0>", " ".join(figures.printable(str(value)).split()))


def escaped(value: object) -> str:
    """Return words that Markdown shows as they are at the start of a paragraph or list item."""
    words_in_line = cell(value)
    return re.sub(r"^(\d+)([.)])", r"\1\\\2", re.sub(r"^([#>+-])", r"\\\1", words_in_line))


def table(heads: Sequence[str], rows: Iterable[Sequence[str]], *, words_first: int = 1) -> str:
    """Return a table whose first `words_first` columns are words and the others figures."""
    rule = ["---"] * words_first + ["---:"] * (len(heads) - words_first)
    lines = [heads, rule, *rows]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def model_table(report: Report) -> str:
    """Return the one table."""
    rows = headline(report)
    chosen = basis(report)
    extra = [f"p50 at {chosen.extra}"] if chosen.extra is not None else []
    metric = cell(figures.metric_name(report.task.metric))
    heads = ["model", "parameters", "file MB", "peak MB", "p50 ms", "p90 ms", "p99 ms"]
    heads += [*extra, "per s", metric, "kept", "speed-up"]
    return table(heads, [_cells(row, bool(extra)) for row in rows])


def _cells(row: Row, extra: bool) -> list[str]:
    name = cell(row.label)
    latency = [figures.milliseconds(value) for value in (row.p50_ms, row.p90_ms, row.p99_ms)]
    more = [words.with_fidelity(figures.milliseconds(row.extra_p50_ms), row.extra)] * extra
    return [
        f"**{name}** (shipped)" if row.shipped_for else name,
        figures.count(row.parameters),
        figures.megabytes(row.file_bytes),
        figures.megabytes(row.peak_bytes),
        *(words.with_fidelity(value, row.latency) for value in latency),
        *more,
        figures.whole(row.throughput_per_s),
        figures.score(row.metric.value if row.metric else None),
        figures.percent(row.kept),
        figures.times(row.speedup.median if row.speedup else None),
    ]


def render(report: Report) -> bytes:
    """Return the whole report as Markdown."""
    report.validate()
    sections = [
        _opening(report),
        _models(report),
        _gates(report),
        _targets(report),
        _training(report),
        _plan(report),
        _lineage(report),
        _environment(report),
    ]
    return ("\n\n".join(section for section in sections if section) + "\n").encode()


def _opening(report: Report) -> str:
    parts = [
        f"# Report: {cell(report.task.name)}",
        f"**{cell(words.sentence(report))}**",
        f"{str(states.tally(report)).capitalize()}. Made {cell(figures.moment(report.created))}.",
    ]
    alerts = [*states.blocked(report), *states.not_shipped(report)]
    parts += [f"> {escaped(line)}" for line in alerts]
    parts += [f"> Warning: {cell(line)}" for line in report.warnings]
    return "\n\n".join(parts)


def _models(report: Report) -> str:
    if not report.models:
        return ""
    notes = [words.conditions(report), words.speedup_words(report)]
    if any(words.p99_reason(row) for row in headline(report)):
        notes.append("A p99 needs 1,000 samples; with fewer it is not printed.")
    parts = ["## Models", model_table(report), escaped(" ".join(note for note in notes if note))]
    lines = [f"- {escaped(line)}" for line in words.legend(report)]
    parts += ["\n".join(lines)] if lines else []
    return "\n\n".join([*parts, _speed(report)] if report.ratios else parts)


def _speed(report: Report) -> str:
    loads = [f"at {tokens}" for tokens in words.other_loads(report)]
    heads = ["model", "than", "factor", "quartiles", "rounds", *loads]
    items = words.comparisons(report)
    rows = [
        [
            cell(item.fast),
            cell(item.slow),
            f"{item.factor}{' +' if item.runtime_changed else ''}",
            item.quartiles,
            str(item.rounds),
            *(factor for factor, _ in item.others),
        ]
        for item in items
    ]
    where = " and ".join(dict.fromkeys(item.load for item in items))
    note = f"Ratios of alternating rounds {where}."
    if loads:
        note += " The columns after the rounds are at other lengths, in tokens."
    if any(item.runtime_changed for item in items):
        note += " Where there is a +, part of it is the runtime."
    return f"{table(heads, rows, words_first=2)}\n\n{note}"


def _gates(report: Report) -> str:
    if not report.gates:
        return ""
    rows = [
        [
            cell(gate.gate),
            cell(states.gate_model(report, gate)),
            cell(gate.limit),
            cell(gate.observed),
            states.gate_word(gate) + (", blocks" if gate.blocking and gate.passed is False else ""),
            cell(gate.why),
        ]
        for gate in report.gates
    ]
    heads = ["gate", "model", "limit", "observed", "verdict", "why"]
    return f"## Gates\n\n{table(heads, rows, words_first=6)}"


def _targets(report: Report) -> str:
    targets = states.target_states(report)
    if not targets:
        return ""
    rows = [
        [
            cell(s.name),
            cell(s.shipped or figures.DASH),
            s.fidelity,
            cell(s.conditions or figures.DASH),
        ]
        for s in targets
    ]
    heads = ["target", "shipped", "latency", "conditions"]
    return f"## Targets\n\n{table(heads, rows, words_first=4)}"


def _training(report: Report) -> str:
    if not report.curves:
        return ""
    rows = []
    for curve in report.curves:
        losses = [loss for loss in curve.points.loss if loss is not None]
        metrics = [metric for metric in curve.evals.metric if metric is not None]
        rows.append(
            [
                cell(curve.run),
                cell(curve.stage),
                str(max((*curve.points.step, *curve.evals.step), default=0) or figures.DASH),
                f"{losses[-1]:.4g}" if losses else figures.DASH,
                figures.score(metrics[-1] if metrics else None),
                figures.whole(curve.samples_per_s),
            ]
        )
    heads = ["run", "stage", "steps", "last loss", "last metric", "samples/s"]
    return f"## Training\n\n{table(heads, rows, words_first=2)}"


def _plan(report: Report) -> str:
    plan = report.plan
    if plan is None:
        return ""
    facts = [
        ("student", str(plan.student or "")),
        ("teacher", str(plan.teacher or "")),
        ("initialisation", plan.init),
        ("layer map", " ".join(f"{s}<-{t}" for s, t in plan.layer_map)),
        ("method", plan.method),
        ("terms", ", ".join(plan.terms)),
    ]
    lines = [f"- {name}: {cell(value)}" for name, value in facts if value]
    lines += [f"- {escaped(reason)}" for reason in plan.reasons]
    return "## Plan\n\n" + "\n".join(lines)


def _lineage(report: Report) -> str:
    if not report.steps:
        return ""
    rows = [
        [
            cell(step.name),
            "kept from before" if step.skipped else figures.duration(step.seconds),
            _digests(step.inputs.items()),
            _digests(step.outputs.items()),
        ]
        for step in report.steps
    ]
    heads = ["step", "time", "inputs", "outputs"]
    return f"## Steps\n\n{table(heads, rows, words_first=4)}"


def _digests(items: Iterable[tuple[str, str]]) -> str:
    said = [f"{cell(name)} {cell(figures.short_digest(digest))}" for name, digest in items]
    return ", ".join(said) or figures.DASH


def _environment(report: Report) -> str:
    facts = [("command", report.command), ("recipe", report.digest)]
    facts += [(key, shown(value)) for key, value in report.environment.items()]
    lines = [f"- {escaped(name)}: {cell(value)}" for name, value in facts if value]
    return "## Environment\n\n" + "\n".join(lines) if lines else ""
