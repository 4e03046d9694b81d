"""Just enough SVG to draw a figure: escaped elements, scales with round ticks, a titled frame.

Colours are CSS classes of the page (`ink`, `muted`, `grid`, `s0` to `s9`), so that one drawing
serves light, dark and print. Coordinates are in user units; y grows downwards.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from typing import Protocol

from toolchain.report.figures import printable

__all__ = [
    "Linear",
    "Log",
    "Scale",
    "element",
    "frame",
    "line",
    "polyline",
    "text",
    "thinned",
    "tick_label",
    "tooltip",
]

Attributes = Mapping[str, str | float]


def _number(value: str | float) -> str:
    if isinstance(value, str):
        return value
    return f"{value:.2f}".rstrip("0").rstrip(".")


def element(name: str, attributes: Attributes, *content: str) -> str:
    """Return one element; attribute values are escaped, `content` is markup already."""
    inside = "".join(
        f' {key}="{escape(printable(_number(value)), quote=True)}"'
        for key, value in attributes.items()
    )
    body = "".join(content)
    return f"<{name}{inside}>{body}</{name}>" if body else f"<{name}{inside}/>"


def text(x: float, y: float, words: str, *, css: str = "ink", anchor: str = "start") -> str:
    """Return escaped words whose baseline starts, is centred or ends at a point."""
    place: Attributes = {"x": x, "y": y, "class": css, "text-anchor": anchor}
    return element("text", place, escape(printable(words)))


def line(x1: float, y1: float, x2: float, y2: float, *, css: str) -> str:
    """Return a straight line."""
    return element("line", {"x1": x1, "y1": y1, "x2": x2, "y2": y2, "class": css})


def polyline(points: Iterable[tuple[float, float]], *, css: str) -> str:
    """Return an open line through points."""
    joined = " ".join(f"{_number(x)},{_number(y)}" for x, y in points)
    return element("polyline", {"points": joined, "class": css})


def frame(key: str, width: float, height: float, title: str, desc: str, *content: str) -> str:
    """Return a whole drawing that screen readers announce by `title` and `desc`.

    `key` must be unique on the page: it names the title and the description.
    """
    attributes: Attributes = {
        "viewBox": f"0 0 {_number(width)} {_number(height)}",
        "role": "img",
        "aria-labelledby": f"{key}-title {key}-desc",
        "class": "plot",
    }
    return element(
        "svg",
        attributes,
        element("title", {"id": f"{key}-title"}, escape(printable(title))),
        element("desc", {"id": f"{key}-desc"}, escape(printable(desc))),
        *content,
    )


def tooltip(words: str) -> str:
    """Return what a pointer resting on the parent element is told."""
    return element("title", {}, escape(printable(words)))


class Scale(Protocol):
    """Maps a figure to a coordinate, and knows round figures to label."""

    def at(self, value: float) -> float:
        """Return the coordinate of a value."""

    def ticks(self) -> list[float]:
        """Return round values inside the domain, ascending."""


@dataclass(frozen=True)
class Linear:
    """Domain [low, high] to [start, end]; equal ends are widened so that a line has a place."""

    low: float
    high: float
    start: float
    end: float
    wanted: int = 5

    def at(self, value: float) -> float:
        """Return the coordinate of a value."""
        span = self.high - self.low
        part = (value - self.low) / span if span else 0.5
        return self.start + part * (self.end - self.start)

    def ticks(self) -> list[float]:
        """Return about `wanted` multiples of 1, 2 or 5 times a power of ten."""
        span = self.high - self.low
        if span <= 0:
            return [self.low]
        rough = span / self.wanted
        power = 10 ** math.floor(math.log10(rough))
        step = next(m * power for m in (1, 2, 5, 10) if m * power >= rough * 0.999)
        first = math.ceil(self.low / step - 1e-9)
        last = math.floor(self.high / step + 1e-9)
        return [n * step for n in range(first, last + 1)]


@dataclass(frozen=True)
class Log:
    """Domain [low, high], both positive, to [start, end], by ratio; `marks` may name its ticks."""

    low: float
    high: float
    start: float
    end: float
    marks: tuple[float, ...] = ()

    def at(self, value: float) -> float:
        """Return the coordinate of a positive value."""
        span = math.log(self.high / self.low)
        part = math.log(value / self.low) / span if span else 0.5
        return self.start + part * (self.end - self.start)

    def ticks(self) -> list[float]:
        """Return powers of ten with as many of 1-2-5 or 1-9 between as the domain needs."""
        if self.marks:
            return list(self.marks)
        decades = math.log10(self.high / self.low)
        parts: Sequence[float] = (1,)
        if decades < 0.7:
            parts = (1, 1.5, 2, 3, 4, 5, 6, 7, 8, 9)
        elif decades < 2.2:
            parts = (1, 2, 5)
        first, last = math.floor(math.log10(self.low)), math.ceil(math.log10(self.high))
        found = [part * 10.0**power for power in range(first, last + 1) for part in parts]
        inside = [v for v in found if self.low * 0.9999 <= v <= self.high * 1.0001]
        return inside or [self.low, self.high]


def tick_label(value: float) -> str:
    """Return a tick's words: no trailing zeros, round thousands as `k`."""
    if abs(value) >= 1000 and value % 100 == 0:
        return f"{value / 1000:.4g}k"
    return f"{value:.6g}"


def thinned(values: Sequence[float | None], limit: int) -> list[tuple[int, float]]:
    """Return at most `limit` (index, mean) pairs, one per bucket of neighbours, without Nones."""
    size = max(1, math.ceil(len(values) / limit))
    pairs = []
    for start in range(0, len(values), size):
        known = [v for v in values[start : start + size] if v is not None]
        if known:
            index = min(start + size // 2, len(values) - 1)
            pairs.append((index, sum(known) / len(known)))
    return pairs
