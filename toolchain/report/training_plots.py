"""The figures about training: losses with evaluations, quality over steps, the layer map.

Every function returns None instead of an empty figure.
"""

from collections.abc import Iterable, Sequence

from toolchain.report import figures
from toolchain.report.headline import headline
from toolchain.report.linechart import Chart, Line
from toolchain.report.placing import Box, text_width
from toolchain.report.plots import FONT, WIDTH, Figure, padded
from toolchain.report.report import Curve, Report
from toolchain.report.svg import Linear, Log, element, frame, line, text, thinned

__all__ = ["layer_map", "loss_curve", "quality_by_step"]

_POINTS = 240
_RUN_CLASS = {"finetune": "s0", "assistant": "s3", "distill": "s4", "baseline": "s2"}
_RUN_WORDS = {
    "finetune": "teacher",
    "assistant": "assistant",
    "distill": "distilled student",
    "baseline": "baseline",
}
_PARTS = ("s5", "s6", "s2", "s7", "s8", "s9", "s3", "s1")

Series = list[tuple[float, float]]


def _series(steps: Sequence[int], values: Sequence[float | None]) -> Series:
    return [(float(steps[index]), value) for index, value in thinned(values, _POINTS)]


def _loss_lines(curve: Curve) -> list[Line]:
    """The whole loss, and its terms where there are several; each with at least two points."""
    steps, parts = curve.points.step, curve.points.parts
    lines = [Line(name="loss", css=_RUN_CLASS[curve.run], points=_series(steps, curve.points.loss))]
    for index, (name, values) in enumerate(parts.items() if len(parts) > 1 else ()):
        css = f"thin {_PARTS[index % len(_PARTS)]}"
        lines.append(Line(name=name, css=css, points=_series(steps, values)))
    return [each for each in lines if len(each.points) > 1]


def loss_curve(curve: Curve, key: str, metric: str = "") -> Figure | None:
    """Plot the loss of one stage with its terms; needs two known losses.

    `metric` is what the stage's evaluations are values of.
    """
    lines = _loss_lines(curve)
    if not lines:
        return None
    values = [value for each in lines for _, value in each.points]
    steps = [step for each in lines for step, _ in each.points]
    low, high = min(values), max(values)
    # Only a loss that falls over more than a decade needs a scale that few read with ease.
    logarithmic = low > 0 and high / low > 30
    ends = padded(low, high, 0.05)
    chart = Chart(
        key=key,
        title=f"Loss of {curve.run}, stage {curve.stage}, by step",
        desc="; ".join(
            f"{each.name} from {each.points[0][1]:.3g} to {each.points[-1][1]:.3g}"
            for each in lines
        ),
        lines=lines,
        x=lambda start, end: Linear(0.0, max(steps), start, end, wanted=4),
        y=lambda start, end: (
            Log(low / 1.1, high * 1.1, start, end) if logarithmic else Linear(*ends, start, end)
        ),
        x_words="step",
        y_words="loss (log scale)" if logarithmic else "loss",
    )
    title = f"{_RUN_WORDS[curve.run].capitalize()}: {curve.stage}"
    return Figure(key=key, title=title, caption=_pace(curve, metric), svg=chart.svg())


def _pace(curve: Curve, metric: str) -> str:
    known = []
    if curve.samples_per_s is not None:
        known.append(f"{figures.whole(curve.samples_per_s)} samples/s")
    choose = max if figures.higher_is_better(metric) else min
    best = choose((m for m in curve.evals.metric if m is not None), default=None)
    if best is not None:
        known.append(f"best of {len(curve.evals.metric)} evaluations {figures.score(best)}")
    return ", ".join(known)


def _along(curves: Iterable[Curve]) -> Series:
    """Join the evaluations of a run's stages on one axis of steps."""
    joined: Series = []
    offset = 0
    for curve in curves:
        for step, value in zip(curve.evals.step, curve.evals.metric, strict=True):
            if value is not None:
                joined.append((float(offset + step), value))
        offset += max((*curve.points.step, *curve.evals.step), default=0)
    return joined


def quality_by_step(report: Report) -> Figure | None:
    """Plot the metric of student and baseline over steps; the teacher's is a dashed line."""
    lines = [
        _run_line(run, points)
        for run in ("distill", "baseline")
        if len(points := _along(c for c in report.curves if c.run == run)) > 1
    ]
    if not lines:
        return None
    last = max(each.points[-1][0] for each in lines)
    desc = "; ".join(f"{each.name} ends at {each.points[-1][1]:.4f}" for each in lines)
    taught = [r.metric.value for r in headline(report) if r.metric and r.model.role == "teacher"]
    for value in taught[:1]:
        lines.insert(0, Line(name="teacher", css="teacher s0", points=[(0, value), (last, value)]))
    values = [value for each in lines for _, value in each.points]
    name = figures.metric_name(report.task.metric)
    chart = Chart(
        key="progress",
        title=f"{name} by training step",
        desc=desc,
        lines=lines,
        x=lambda start, end: Linear(0.0, last, start, end, wanted=4),
        y=lambda start, end: Linear(*padded(min(values), max(values)), start, end),
        x_words="step",
        y_words=name,
    )
    fair = any("baseline" in each.css for each in lines)
    caption = "The baseline is the same student trained on labels alone." if fair else ""
    title = "Quality while training"
    return Figure(key="progress", title=title, caption=caption, svg=chart.svg())


def _run_line(run: str, points: Series) -> Line:
    name = _RUN_WORDS[run]
    tips = [f"{name} after {step:,.0f} steps: {value:.4f}" for step, value in points]
    return Line(name=name, css=f"{run} {_RUN_CLASS[run]}", points=points, tips=tips)


def layer_map(report: Report) -> Figure | None:
    """Draw which teacher layer stands beside which student layer; needs the plan's two shapes."""
    plan = report.plan
    if plan is None or not plan.layer_map or plan.student is None or plan.teacher is None:
        return None
    teacher = _blocks(plan.teacher.layers, 24)
    student = _blocks(plan.student.layers, 108)
    links = [
        line(_middle(teacher[t]), 50, _middle(student[s]), 108, css="link s4")
        for s, t in plan.layer_map
        if s in student and t in teacher
    ]
    used_teacher = {t for _, t in plan.layer_map}
    used_student = {s for s, _ in plan.layer_map}
    return Figure(
        key="layers",
        title="Layer map",
        caption="Block 0 is the embeddings.",
        svg=frame(
            "layers",
            WIDTH,
            152,
            "Which teacher layer stands beside each student layer",
            "; ".join(f"student {s}, teacher {t}" for s, t in plan.layer_map),
            text(0, 14, f"teacher: {plan.teacher}", css="muted"),
            text(0, 148, f"student: {plan.student}", css="muted"),
            *links,
            *(_block(n, box, "s0", n in used_teacher) for n, box in teacher.items()),
            *(_block(n, box, "s4", n in used_student) for n, box in student.items()),
        ),
    )


def _blocks(layers: int, top: float) -> dict[int, Box]:
    """Boxes of the embeddings (0) and the blocks, spread over the width."""
    pitch = WIDTH / (layers + 1)
    width = min(44.0, pitch * 0.78)
    centers = [pitch * (n + 0.5) for n in range(layers + 1)]
    return {n: Box(c - width / 2, top, c + width / 2, top + 26) for n, c in enumerate(centers)}


def _middle(box: Box) -> float:
    return (box.left + box.right) / 2


def _block(number: int, box: Box, css: str, used: bool) -> str:
    shape = {"x": box.left, "y": box.top, "width": box.right - box.left, "height": 26, "rx": 4}
    style = f"mark {css}" if used else "track"
    words = text(
        _middle(box),
        box.top + 17,
        str(number),
        css="onmark" if used else "muted",
        anchor="middle",
    )
    # Deep models have blocks too narrow for a number.
    fits = box.right - box.left >= text_width(str(number), FONT)
    return element("rect", {**shape, "class": style}) + (words if fits else "")
