"""The figure of one axis: how far each choice lies from the reference, by seed and on average."""

from toolchain.report import figures
from toolchain.report.placing import fitted
from toolchain.report.plots import FONT, RIGHT, WIDTH, Figure, padded, x_axis
from toolchain.report.svg import Linear, element, frame, line, text, tooltip
from toolchain.study import words
from toolchain.study.asked import Compared
from toolchain.study.findings import Effect, Findings

__all__ = ["differences"]

_LEFT, _TOP, _ROW, _BOTTOM = 132.0, 8.0, 30.0, 40.0


def differences(findings: Findings, axis: Compared, found: list[Effect]) -> Figure:
    """Draw one axis; the reference is the line at zero."""
    values = [0.0, *(d for e in found for d in (*e.differences, *(e.ci95 or ())))]
    bottom = _TOP + _ROW * len(found)
    x = Linear(*padded(min(values), max(values), 0.05), _LEFT, WIDTH - RIGHT)
    marks = [line(x.at(0), _TOP, x.at(0), bottom, css="axis")]
    for number, effect in enumerate(found):
        marks.append(_row(effect, x, _TOP + _ROW * (number + 0.5)))
    name = figures.metric_name(findings.metric)
    way = "right" if findings.up else "left"
    small = "Small dots are seeds, bars 95 % intervals; " if found[-1].ci95 else ""
    return Figure(
        key=f"axis-{axis}",
        title="",
        caption=f"{small}to the {way} is better.",
        svg=frame(
            f"axis-{axis}",
            WIDTH,
            bottom + _BOTTOM,
            f"{words.TITLES[axis]}: difference in {name} to {found[0].choice}",
            "; ".join(f"{e.choice} {words.signed(e.difference)}" for e in found),
            x_axis(x, bottom, f"difference in {name} to {found[0].choice}"),
            *marks,
        ),
    )


def _row(effect: Effect, x: Linear, y: float) -> str:
    best = "s5" if effect.rank == 1 else "s4"
    marks = [text(_LEFT - 10, y + 3.8, fitted(effect.choice, FONT, _LEFT - 12), anchor="end")]
    if effect.ci95:
        marks.append(line(x.at(effect.ci95[0]), y, x.at(effect.ci95[1]), y, css="whisker"))
        marks += [line(x.at(end), y - 4, x.at(end), y + 4, css="whisker") for end in effect.ci95]
        marks += [
            element("circle", {"cx": x.at(d), "cy": y, "r": 2.2, "class": "mark s1"})
            for d in effect.differences
        ]
    mean = effect.difference or 0.0
    said = f"{effect.choice}: {figures.score(effect.mean)}, {words.signed(effect.difference)}"
    marks.append(element("circle", {"cx": x.at(mean), "cy": y, "r": 5.2, "class": f"mark {best}"}))
    return element("g", {}, tooltip(said), *marks)
