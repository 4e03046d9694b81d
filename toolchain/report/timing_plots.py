"""The figures about time: latency by length, and the distribution of every single run.

Every function returns None instead of an empty figure.
"""

from collections.abc import Sequence

from toolchain.report import figures
from toolchain.report.headline import Row, basis, fixed_lengths, headline, latency_of
from toolchain.report.linechart import Chart, Line
from toolchain.report.placing import fitted, text_width
from toolchain.report.plots import FONT, WIDTH, Figure, series, x_axis
from toolchain.report.report import Latency, Report
from toolchain.report.svg import Log, element, frame, line, text, tooltip

__all__ = ["distributions", "latency_by_tokens"]


def latency_by_tokens(report: Report) -> Figure | None:
    """Draw p50 over the fixed lengths, one line per model; needs two lengths."""
    chosen = basis(report)
    lengths = fixed_lengths(report, chosen.target)
    if len(lengths) < 2:
        return None
    classes = series(headline(report))
    curves = [(row, _over_lengths(row, chosen.target, lengths)) for row in headline(report)]
    lines = [_line(row, entries, classes[row.name]) for row, entries in curves if entries]
    if not lines:
        return None
    values = [value for each in lines for _, value in each.points]
    low, high = min(values) / 1.2, max(values) * 1.2
    chart = Chart(
        key="tokens",
        title="p50 latency in milliseconds by number of tokens",
        desc="; ".join(_said(each) for each in lines),
        # Equal shapes have equal curves: the dotted baseline goes on top, so that both are seen.
        lines=sorted(lines, key=lambda each: "baseline" in each.css),
        x=lambda start, end: Log(lengths[0], lengths[-1], start, end, tuple(lengths)),
        y=lambda start, end: Log(low, high, start, end),
        x_words="tokens (log scale)",
        y_words="p50, ms (log scale)",
        height=280.0,
    )
    caption = "p50 of one sequence at a time; both scales are logarithmic."
    return Figure(key="tokens", title="Latency by length", caption=caption, svg=chart.svg())


def _over_lengths(
    row: Row, target: str | None, lengths: Sequence[int]
) -> list[tuple[int, Latency]]:
    found = [(tokens, latency_of(row.model, target, tokens)) for tokens in lengths]
    return [(tokens, entry) for tokens, entry in found if entry is not None and entry.p50_ms]


def _line(row: Row, entries: Sequence[tuple[int, Latency]], css: str) -> Line:
    return Line(
        name=row.label,
        css=f"{row.model.role} {css}",
        points=[(float(tokens), entry.p50_ms or 0.0) for tokens, entry in entries],
        tips=[
            f"{row.label} at {tokens} tokens: p50 {figures.milliseconds(entry.p50_ms)} ms, "
            f"p90 {figures.milliseconds(entry.p90_ms)} ms, {entry.runs:,} runs"
            for tokens, entry in entries
        ],
    )


def _said(each: Line) -> str:
    said = [f"{figures.milliseconds(value)} ms at {tokens:.0f}" for tokens, value in each.points]
    return f"{each.name}: {', '.join(said)}"


def distributions(report: Report) -> Figure | None:
    """Draw a histogram of every model's raw samples on one axis, with p50, p90 and p99."""
    rows = [r for r in headline(report) if r.latency is not None and len(r.latency.samples) >= 20]
    if not rows:
        return None
    classes = series(headline(report))
    ordered = {row.name: sorted(row.latency.samples) for row in rows if row.latency}
    low = min(s[len(s) // 200] for s in ordered.values()) / 1e6
    high = max(s[-1 - len(s) // 200] for s in ordered.values()) / 1e6
    x = Log(max(low, 1e-6) / 1.05, max(high, 2e-6) * 1.05, 2, WIDTH - 2)
    marks, top = [], 4.0
    for row in rows:
        entry = row.latency
        if entry is None:
            continue
        marks.append(_strip(row, entry, ordered[row.name], x, top, classes[row.name]))
        top += 62
    for value in x.ticks():
        marks.insert(0, line(x.at(value), 4, x.at(value), top - 6, css="grid"))
    where = figures.at_tokens(basis(report).tokens)
    said = "; ".join(f"{row.label} p50 {figures.milliseconds(row.p50_ms)} ms" for row in rows)
    return Figure(
        key="spread",
        title="Distribution of latency",
        caption=f"Every single run {where}; marks are p50, p90 and p99. "
        "The outermost 0.5 % at both ends of the axis are not drawn.",
        svg=frame(
            "spread",
            WIDTH,
            top + 34,
            f"Distribution of latency {where}",
            said,
            *marks,
            x_axis(x, top - 6, "ms (log scale)"),
        ),
    )


def _strip(row: Row, entry: Latency, samples: Sequence[int], x: Log, top: float, css: str) -> str:
    """One model's histogram: 110 bins along the axis, the fullest 28 units high."""
    bins = 110
    counts = [0] * bins
    for sample in samples:
        part = (x.at(sample / 1e6) - x.start) / (x.end - x.start) if sample > 0 else -1.0
        if 0 <= part < 1:
            counts[int(part * bins)] += 1
    base, most, width = top + 46, max(counts) or 1, (x.end - x.start) / bins
    used = [i for i, number in enumerate(counts) if number]
    path = []
    if used:
        path.append(f"M{x.start + used[0] * width:.1f} {base:.1f}")
        for index in range(used[0], used[-1] + 1):
            path.append(f"V{base - 28 * counts[index] / most:.1f}h{width:.2f}")
        path.append(f"V{base:.1f}z")
    said = f"p50 {figures.milliseconds(entry.p50_ms)} ms, {entry.runs:,} runs"
    room = WIDTH - text_width(said, FONT) - 12
    parts = [
        text(0, top + 11, fitted(row.label, FONT, room)),
        text(WIDTH, top + 11, said, css="muted", anchor="end"),
        element("path", {"d": "".join(path), "class": f"area {css}"}) if path else "",
        line(x.start, base, x.end, base, css="axis"),
    ]
    for q, value, reach in ((50, entry.p50_ms, 30), (90, entry.p90_ms, 20), (99, entry.p99_ms, 12)):
        if value is not None and x.low <= value <= x.high:
            tip = tooltip(f"{row.label}: p{q} {figures.milliseconds(value)} ms")
            mark = {"x1": x.at(value), "x2": x.at(value), "y1": base - reach, "y2": base + 3}
            parts.append(element("line", {**mark, "class": "quantile"}, tip))
    return "".join(parts)
