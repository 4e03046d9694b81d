"""Lines with their names at their right ends: one drawing for lengths, losses and evaluations."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from toolchain.report.placing import fitted, spread, text_width
from toolchain.report.plots import BOTTOM, FONT, LEFT, TOP, WIDTH, x_axis, y_axis
from toolchain.report.svg import Scale, element, frame, line, polyline, text, tooltip

__all__ = ["Chart", "Line"]

_NAME = 132.0
_GAP = 14.0

# Given where an axis starts and ends, in units, return its scale.
MakeScale = Callable[[float, float], Scale]


@dataclass(frozen=True, kw_only=True)
class Line:
    """One line through (x, y); `css` colours and dashes it; with `tips`, each point has a dot."""

    name: str
    css: str
    points: Sequence[tuple[float, float]]
    tips: Sequence[str] = ()


@dataclass(frozen=True, kw_only=True)
class Chart:
    """A drawing of at least one line; later lines lie on top."""

    key: str
    title: str
    desc: str
    lines: Sequence[Line]
    x: MakeScale
    y: MakeScale
    x_words: str
    y_words: str
    height: float = 240.0

    def svg(self) -> str:
        """Return the drawing, tall enough for all names."""
        names = [fitted(each.name, FONT, _NAME) for each in self.lines]
        right = WIDTH - 20 - max(text_width(name, FONT) for name in names)
        height = max(self.height, TOP + BOTTOM + (_GAP + 1) * len(names))
        x, y = self.x(LEFT + 8, right), self.y(height - BOTTOM, TOP)
        return frame(
            self.key,
            WIDTH,
            height,
            self.title,
            self.desc,
            y_axis(y, LEFT, right + 4, self.y_words),
            x_axis(x, height - BOTTOM, self.x_words),
            *(_drawn(each, x, y) for each in self.lines),
            *self._ends(names, x, y, right, height),
        )

    def _ends(
        self, names: Sequence[str], x: Scale, y: Scale, right: float, height: float
    ) -> list[str]:
        ends = [each.points[-1] for each in self.lines]
        wanted = [y.at(value) for _, value in ends]
        marks = []
        for name, (step, _), start, at in zip(
            names, ends, wanted, spread(wanted, _GAP, TOP + 4, height - BOTTOM - 4), strict=True
        ):
            marks.append(line(x.at(step) + 5, start, right + 14, at, css="leader"))
            marks.append(text(right + 16, at + 3.8, name))
        return marks


def _drawn(each: Line, x: Scale, y: Scale) -> str:
    path = [(x.at(step), y.at(value)) for step, value in each.points]
    dots = [_dot(px, py, tip, each.css) for (px, py), tip in zip(path, each.tips, strict=False)]
    return "".join([polyline(path, css=f"stroke {each.css}"), *dots])


def _dot(x: float, y: float, tip: str, css: str) -> str:
    center: dict[str, str | float] = {"cx": x, "cy": y}
    # The large, clear circle is what a pointer finds.
    return element(
        "g",
        {},
        tooltip(tip),
        element("circle", {**center, "r": 9, "class": "hit"}),
        element("circle", {**center, "r": 3.4, "class": f"mark {css}"}),
    )
