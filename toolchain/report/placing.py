"""Where words go on a plot: labels that cover neither each other nor the points they name."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

__all__ = ["Box", "Label", "Point", "fitted", "place", "spread", "text_width"]

# Widths in em, rounded up from the widest common system fonts, so that a box never is too small.
_NARROW = frozenset("iljtfrI.,:;'|!()[] ")
_WIDE = frozenset("mwMW@%")

# Up to this distance a label needs no line to its point.
_NEAR = 10.0
# What it costs to cover a line, or to draw one across a label, in units of distance.
_COVERS, _CROSSES = 40.0, 60.0


@dataclass(frozen=True)
class Box:
    """A rectangle."""

    left: float
    top: float
    right: float
    bottom: float

    def meets(self, other: "Box") -> bool:
        """Return whether two rectangles share an inner point."""
        return (
            self.left < other.right
            and other.left < self.right
            and self.top < other.bottom
            and other.top < self.bottom
        )

    def nearest(self, x: float, y: float) -> tuple[float, float]:
        """Return the point of this rectangle that is nearest to another point."""
        return min(max(x, self.left), self.right), min(max(y, self.top), self.bottom)

    def inside(self, other: "Box") -> bool:
        """Return whether this rectangle lies wholly in another."""
        return (
            self.left >= other.left
            and self.right <= other.right
            and self.top >= other.top
            and self.bottom <= other.bottom
        )


@dataclass(frozen=True)
class Point:
    """A mark of some radius, to be labelled with words."""

    x: float
    y: float
    words: str
    radius: float = 5.0


@dataclass(frozen=True)
class Label:
    """Words in their box; `far` labels need a line back to their point."""

    words: str
    box: Box
    far: bool


def text_width(words: str, size: float) -> float:
    """Return an upper estimate of the width of words set in a sans font of `size` units."""
    em = 0.0
    for letter in words:
        if letter in _NARROW:
            em += 0.42
        elif letter in _WIDE:
            em += 1.0
        elif ord(letter) >= 0x1100:
            em += 1.05
        else:
            em += 0.72 if letter.isupper() else 0.64
    return em * size


def fitted(words: str, size: float, width: float) -> str:
    """Return the words, shortened in the middle until they fit a width."""
    if text_width(words, size) <= width:
        return words
    for keep in range(len(words) - 1, 1, -1):
        head, tail = (keep + 1) // 2, keep // 2
        short = f"{words[:head].rstrip()}\u2026{words[len(words) - tail :].lstrip()}"
        if text_width(short, size) <= width:
            return short
    return "\u2026"


def _candidates(point: Point, width: float, height: float) -> Iterator[tuple[Box, float]]:
    """Boxes around a point with their distance from it: beside it first, then above and below."""
    for distance in (6.0, 10.0, 18.0, 28.0, 40.0, 56.0, 76.0, 100.0, 130.0):
        reach = point.radius + distance
        for dx, dy in ((1, 0), (-1, 0), (0, -1), (0, 1), (1, -1), (1, 1), (-1, -1), (-1, 1)):
            diagonal = 0.7 if dx and dy else 1.0
            x, y = point.x + dx * reach * diagonal, point.y + dy * reach * diagonal
            left = x if dx > 0 else x - width if dx < 0 else x - width / 2
            top = y - height / 2
            if not dx:
                top = y if dy > 0 else y - height
            yield Box(left, top, left + width, top + height), distance


def _anywhere(
    point: Point, bounds: Box, width: float, height: float
) -> Iterator[tuple[Box, float]]:
    top = bounds.top
    while top + height <= bounds.bottom:
        left = bounds.right - width
        while left >= bounds.left:
            box = Box(left, top, left + width, top + height)
            x, y = box.nearest(point.x, point.y)
            yield box, _NEAR + math.hypot(x - point.x, y - point.y)
            left -= 5
        top += height / 4


def _trail(point: Point, box: Box) -> list[Box]:
    """Small boxes along the line that joins a label to its point."""
    x, y = box.nearest(point.x, point.y)
    steps = max(1, int(math.hypot(x - point.x, y - point.y) / 3))
    parts = [(n + 0.5) / steps for n in range(steps)]
    dots = [(point.x + (x - point.x) * part, point.y + (y - point.y) * part) for part in parts]
    return [Box(dx - 1, dy - 1, dx + 1, dy + 1) for dx, dy in dots]


@dataclass
class _Plot:
    """What is on the plot so far: boxes nothing may cover, and lines better left uncovered."""

    bounds: Box
    taken: list[Box]
    lines: list[Box]
    labels: list[Box] = field(default_factory=list)

    def cost(self, point: Point, box: Box, distance: float) -> float | None:
        """Return how bad a place is for a label, in units of distance; None where it is taken."""
        if not box.inside(self.bounds) or any(box.meets(other) for other in self.taken):
            return None
        joint = _trail(point, box) if distance > _NEAR else []
        covers = any(box.meets(line) for line in self.lines)
        crosses = any(dot.meets(label) for dot in joint for label in self.labels)
        return distance + _COVERS * covers + _CROSSES * crosses

    def find(self, point: Point, words: str, width: float, height: float) -> Label | None:
        """Return the best place for a label, and keep it."""
        for source in (
            _candidates(point, width, height),
            _anywhere(point, self.bounds, width, height),
        ):
            best: tuple[float, Box, float] | None = None
            for box, distance in sorted(source, key=lambda item: item[1]):
                if best is not None and distance >= best[0]:
                    break
                cost = self.cost(point, box, distance)
                if cost is not None and (best is None or cost < best[0]):
                    best = cost, box, distance
            if best is not None:
                return self.keep(point, words, best[1], far=best[2] > _NEAR)
        return None

    def keep(self, point: Point, words: str, box: Box, *, far: bool) -> Label:
        """Put a label on the plot."""
        self.taken.append(box)
        self.labels.append(box)
        self.lines.extend(_trail(point, box) if far else [])
        return Label(words, box, far)


def place(
    points: Sequence[Point], bounds: Box, size: float, *, avoid: Sequence[Box] = ()
) -> list[Label | None]:
    """Return one label per point, in order; None only where the plot has no free place left.

    Labels lie inside `bounds` and overlap neither each other nor any point. Where they can, they
    overlap neither the boxes to `avoid` nor the line that joins another label to its point.
    """
    marks = [Box(p.x - p.radius, p.y - p.radius, p.x + p.radius, p.y + p.radius) for p in points]
    plot = _Plot(bounds, marks, list(avoid))
    return [_placed(plot, point, size) for point in points]


def _placed(plot: _Plot, point: Point, size: float) -> Label | None:
    """Place the words, shortened as far as the room demands."""
    for part in (0.6, 0.35, 0.15):
        words = fitted(point.words, size, (plot.bounds.right - plot.bounds.left) * part)
        found = plot.find(point, words, text_width(words, size), size * 1.25)
        if found:
            return found
    return None


def spread(wanted: Sequence[float], gap: float, low: float, high: float) -> list[float]:
    """Return positions near the wanted ones, in their order, at least `gap` apart.

    They stay within [low, high] as long as there is room for them.
    """
    order = sorted(range(len(wanted)), key=lambda index: wanted[index])
    found = [0.0] * len(wanted)
    previous = low - gap
    for index in order:
        previous = max(wanted[index], previous + gap)
        found[index] = previous
    following = high + gap
    for index in reversed(order):
        following = min(found[index], following - gap)
        found[index] = following
    return found
