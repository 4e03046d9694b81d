"""The figures that compare models: quality against latency, and sizes.

Every function returns None instead of an empty figure.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from toolchain.report import figures
from toolchain.report.headline import Row, basis, headline
from toolchain.report.placing import Box, Point, fitted, place, text_width
from toolchain.report.report import Report
from toolchain.report.svg import (
    Linear,
    Log,
    Scale,
    element,
    frame,
    line,
    text,
    tick_label,
    tooltip,
)

__all__ = [
    "BOTTOM",
    "FONT",
    "LEFT",
    "RIGHT",
    "TOP",
    "WIDTH",
    "Figure",
    "padded",
    "quality_against_latency",
    "series",
    "sizes",
    "x_axis",
    "y_axis",
]

WIDTH = 440.0
FONT = 11.0
LEFT, RIGHT, TOP, BOTTOM = 50.0, 12.0, 26.0, 40.0

# More intervals than this hide the points.
_WHISKERS = 8

# Classes of the page's palette by role: two greys, two ambers, then the students' colours.
_PALETTE = {
    "teacher": ("s0", "s1"),
    "baseline": ("s2", "s3"),
    "student": ("s4", "s5", "s6", "s7", "s8", "s9"),
}


@dataclass(frozen=True, kw_only=True)
class Figure:
    """A drawing with the words that stand around it."""

    key: str
    title: str
    caption: str
    svg: str


def series(rows: Sequence[Row]) -> dict[str, str]:
    """Return the colour class of each model by name; the same on every figure."""
    used: dict[str, int] = {}
    classes = {}
    for row in rows:
        palette = _PALETTE[row.model.role]
        index = used.get(row.model.role, 0)
        used[row.model.role] = index + 1
        classes[row.name] = palette[index % len(palette)]
    return classes


def x_axis(scale: Scale, y: float, words: str) -> str:
    """Return tick labels below a plot and the axis' words, centred under them."""
    marks, last = [], -1e9
    for value in scale.ticks():
        x, label = scale.at(value), tick_label(value)
        half = text_width(label, FONT) / 2
        marks.append(line(x, y, x, y + 4, css="axis"))
        if x - half > last + 4:
            marks.append(text(x, y + 16, label, css="muted", anchor="middle"))
            last = x + half
    middle = (scale.at(scale.ticks()[0]) + scale.at(scale.ticks()[-1])) / 2
    words = fitted(words, FONT, WIDTH)
    half = text_width(words, FONT) / 2
    middle = min(max(middle, half), WIDTH - half)
    marks.append(text(middle, y + 32, words, css="muted", anchor="middle"))
    return "".join(marks)


def y_axis(scale: Scale, left: float, right: float, words: str) -> str:
    """Return grid lines with their values, and the axis' words above its upper end."""
    marks = [text(2, 12, fitted(words, FONT, WIDTH - 4), css="muted")]
    for value in scale.ticks():
        y = scale.at(value)
        marks.append(line(left, y, right, y, css="grid"))
        marks.append(text(left - 6, y + 3.8, tick_label(value), css="muted", anchor="end"))
    return "".join(marks)


def _marker(row: Row, x: float, y: float, css: str) -> str:
    """A circle for PyTorch, a square for exported files, a diamond for eight bits or less."""
    ring = (
        element("circle", {"cx": x, "cy": y, "r": 9.5, "class": f"ring {css}"})
        if row.shipped_for
        else ""
    )
    style = f"mark {css}"
    if row.model.precision.startswith("int"):
        path = f"M{x:.2f} {y - 6.2:.2f}l6.2 6.2l-6.2 6.2l-6.2 -6.2z"
        return ring + element("path", {"d": path, "class": style})
    if row.model.format != "torch":
        corner: dict[str, str | float] = {"x": x - 4.6, "y": y - 4.6, "class": style}
        return ring + element("rect", {**corner, "width": 9.2, "height": 9.2})
    return ring + element("circle", {"cx": x, "cy": y, "r": 5.2, "class": style})


def padded(low: float, high: float, part: float = 0.08) -> tuple[float, float]:
    """Return a domain with a margin at both ends; equal ends are widened."""
    span = high - low or abs(high) * 0.1 or 1.0
    return low - span * part, high + span * part


def quality_against_latency(report: Report) -> Figure | None:
    """Plot the task metric (with its interval) against p50; needs two models with both."""
    rows = [r for r in headline(report) if r.p50_ms and r.metric is not None]
    if len(rows) < 2:
        return None
    height = 334.0 + 16 * max(0, len(rows) - 8)
    latencies = [row.p50_ms or 0.0 for row in rows]
    whiskers = len(rows) <= _WHISKERS and any(r.metric and r.metric.ci95 for r in rows)
    values = [value for row in rows for value in _values(row, whiskers)]
    x = Log(min(latencies) / 1.5, max(latencies) * 1.5, LEFT, WIDTH - RIGHT)
    y = Linear(*padded(min(values), max(values)), height - BOTTOM, TOP)
    classes = series(headline(report))
    points = [_point(row, x, y) for row in rows]
    bars = [bar for row in rows if whiskers and (bar := _whisker(row, x, y))]
    bounds = Box(LEFT + 2, TOP, WIDTH - 2, height - BOTTOM - 2)
    quality, where = _quality_words(rows[0]), figures.at_tokens(basis(report).tokens)
    ringed = "; the ring marks what is shipped" if any(r.shipped_for for r in rows) else ""
    intervals = " Bars are 95 % intervals." if whiskers else ""
    upwards = "Up" if figures.higher_is_better(report.task.metric) else "Down"
    return Figure(
        key="quality",
        title="Quality against latency",
        caption=f"{upwards} and to the left is better{ringed}.{intervals}",
        svg=frame(
            "quality",
            WIDTH,
            height,
            f"{quality} against p50 latency {where}",
            "; ".join(_said(row) for row in rows),
            y_axis(y, LEFT, WIDTH - RIGHT, quality),
            x_axis(x, height - BOTTOM, f"p50 {where}, ms (log scale)"),
            *(line(b.left + 1, b.top, b.right - 1, b.bottom, css="whisker") for b in bars),
            *(_marked(row, p, classes[row.name]) for row, p in zip(rows, points, strict=True)),
            *_labels(points, bounds, bars),
        ),
    )


def _values(row: Row, interval: bool) -> list[float]:
    if row.metric is None:
        return []
    return [row.metric.value, *(row.metric.ci95 or () if interval else ())]


def _point(row: Row, x: Scale, y: Scale) -> Point:
    at = x.at(row.p50_ms or 0.0), y.at(row.metric.value if row.metric else 0.0)
    return Point(*at, row.label, 10.0 if row.shipped_for else 6.0)


def _whisker(row: Row, x: Scale, y: Scale) -> Box | None:
    """The interval of a model's metric as a box two units wide."""
    if row.metric is None or row.metric.ci95 is None or row.p50_ms is None:
        return None
    low, high = row.metric.ci95
    return Box(x.at(row.p50_ms) - 1, y.at(high), x.at(row.p50_ms) + 1, y.at(low))


def _marked(row: Row, point: Point, css: str) -> str:
    return element("g", {}, tooltip(_said(row)), _marker(row, point.x, point.y, css))


def _quality_words(row: Row) -> str:
    if row.metric is None:
        return ""
    return f"{figures.metric_name(row.metric.name)} on {row.metric.split}"


def _said(row: Row) -> str:
    value = figures.score(row.metric.value if row.metric else None)
    return f"{row.label} {value} at {figures.milliseconds(row.p50_ms)} ms"


def _labels(points: Sequence[Point], bounds: Box, avoid: Sequence[Box]) -> list[str]:
    drawn = []
    for point, label in zip(points, place(points, bounds, FONT, avoid=avoid), strict=True):
        if label is None:
            continue
        box = label.box
        if label.far:
            end_x, end_y = box.nearest(point.x, point.y)
            drawn.append(line(point.x, point.y, end_x, end_y, css="leader"))
        middle = (box.left + box.right) / 2
        drawn.append(text(middle, box.bottom - 3.5, label.words, css="ink", anchor="middle"))
    return drawn


def sizes(report: Report) -> Figure | None:
    """Draw each model's file as a bar; needs two files of known size."""
    rows = [row for row in headline(report) if row.file_bytes is not None]
    if len(rows) < 2:
        return None
    classes = series(headline(report))
    largest = max(row.file_bytes or 0 for row in rows) or 1
    marks, top = [], 4.0
    for row in rows:
        said = f"{figures.megabytes(row.file_bytes)} MB"
        if row.parameters is not None:
            said = f"{said}, {figures.count(row.parameters)} parameters"
        room = WIDTH - text_width(said, FONT) - 12
        marks.append(text(0, top + 11, fitted(row.label, FONT, room)))
        marks.append(text(WIDTH, top + 11, said, css="muted", anchor="end"))
        width = max(1.5, WIDTH * (row.file_bytes or 0) / largest)
        bar = {"x": 0, "y": top + 17, "width": width, "height": 13, "rx": 3}
        css = f"mark {classes[row.name]}"
        track = element("rect", {**bar, "width": WIDTH, "class": "track"})
        marks.append(
            track + element("rect", {**bar, "class": css}, tooltip(f"{row.label}: {said}"))
        )
        top += 49
    said_all = "; ".join(f"{r.label} {figures.megabytes(r.file_bytes)} MB" for r in rows)
    return Figure(
        key="sizes",
        title="File size",
        caption="MB of a million bytes, weights and graph as they lie on disk.",
        svg=frame("sizes", WIDTH, top, "File size of each model", said_all, *marks),
    )
