"""The README of a bundle: how to run it there, what it is, where it came from, what is claimed."""

from collections.abc import Sequence
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from toolchain.bundle.about import About
from toolchain.measurement import Measurement, Metric

__all__ = ["render"]

_FOLDER = Path(__file__).resolve().parent


def render(about: About, licenses: Sequence[str]) -> str:
    """Return README.md; `licenses` are the names of the files in LICENSES/."""
    environment = Environment(  # Markdown, so nothing is escaped.
        loader=FileSystemLoader(_FOLDER), undefined=StrictUndefined, keep_trailing_newline=True
    )
    figures = [_metric(about.metric)] if about.metric else []
    return environment.get_template("README.md.j2").render(
        about=about,
        pair=about.kind == "pair",
        figures=[*figures, *map(_latency, about.measurements)],
        licenses=licenses,
        notes=list(dict.fromkeys([*about.target.notes, *about.notes])),
    )


def _metric(metric: Metric) -> str:
    interval = f" (95 % {metric.ci95[0]:.4f} to {metric.ci95[1]:.4f})" if metric.ci95 else ""
    kept = f", {metric.kept:.1%} of the teacher's" if metric.kept is not None else ""
    return f"{metric.name} {metric.value:.4f}{interval}{kept}, {metric.rows} rows of {metric.split}"


def _latency(measured: Measurement) -> str:
    tokens = measured.load.tokens
    length = "the task's lengths" if tokens == "task" else f"{tokens} tokens"
    percentiles = [(q, measured.percentile_ms(q)) for q in (50, 90, 99)]
    figures = [f"p{q} {value:.3g} ms" for q, value in percentiles if value is not None]
    if measured.load.new_tokens:
        length = f"{measured.load.new_tokens} new tokens behind {length}"
        rate = measured.new_tokens_per_s
        figures = [f"{rate:,.0f} new tokens/s", *figures] if rate else figures
    told = ", ".join(figures) or "too few samples for a percentile"
    plural = "" if measured.threads == 1 else "s"
    return (
        f"{measured.load.scenario}, {length}, batch {measured.load.batch}: {told} "
        f"({measured.fidelity} on {measured.target}, {measured.threads} thread{plural}, "
        f"{len(measured.samples_ns)} runs)"
    )
