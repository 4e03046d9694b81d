"""What the HTML page shows, in the order it is read; the template only lays it out."""

from dataclasses import dataclass

from toolchain.report import figures, page_models, page_run, states, words
from toolchain.report.plots import Figure, quality_against_latency, sizes
from toolchain.report.report import Report
from toolchain.report.timing_plots import distributions, latency_by_tokens
from toolchain.report.training_plots import layer_map, loss_curve, quality_by_step

__all__ = ["Page", "page"]


@dataclass(frozen=True, kw_only=True)
class Page:
    """Everything on the page."""

    task: str
    created: str
    sentence: str
    tally: states.Tally
    state: str
    kpis: tuple[page_models.Kpi, ...]
    heads: tuple[page_models.Head, ...]
    lines: tuple[page_models.TableLine, ...]
    load_heads: tuple[str, ...]
    notes: tuple[str, ...]
    model_figures: tuple[Figure, ...]
    comparisons: tuple[words.Comparison, ...]
    other_loads: tuple[str, ...]
    gates: tuple[page_run.GateLine, ...]
    targets: tuple[states.TargetState, ...]
    alerts: tuple[str, ...]
    warnings: tuple[str, ...]
    training_figures: tuple[Figure, ...]
    stages: tuple[page_run.Stage, ...]
    plan: tuple[page_models.Fact, ...]
    reasons: tuple[str, ...]
    layer_map: Figure | None
    steps: tuple[page_run.StepLine, ...]
    environment: tuple[page_models.Fact, ...]
    command: str
    recipe_digest: str


def page(report: Report) -> Page:
    """Collect the page's content."""
    measured = [
        quality_against_latency(report),
        distributions(report),
        latency_by_tokens(report),
        sizes(report),
    ]
    training = [quality_by_step(report)]
    training += [
        loss_curve(curve, f"loss-{n}", report.task.metric) for n, curve in enumerate(report.curves)
    ]
    tally = states.tally(report)
    return Page(
        task=report.task.name,
        created=figures.moment(report.created),
        sentence=words.sentence(report),
        tally=tally,
        state="failed" if tally.failed else "undecided" if tally.undecided else "passed",
        kpis=tuple(page_models.kpis(report)),
        heads=tuple(page_models.heads(report)),
        lines=tuple(page_models.lines(report)),
        load_heads=page_models.LOAD_HEADS,
        notes=tuple(page_models.notes(report)),
        model_figures=tuple(figure for figure in measured if figure),
        comparisons=tuple(words.comparisons(report)),
        other_loads=tuple(str(tokens) for tokens in words.other_loads(report)),
        gates=tuple(page_run.gates(report)),
        targets=tuple(states.target_states(report)),
        alerts=(*states.blocked(report), *states.not_shipped(report)),
        warnings=report.warnings,
        training_figures=tuple(figure for figure in training if figure),
        stages=tuple(page_run.stages(report)),
        plan=tuple(page_run.plan_facts(report)),
        reasons=report.plan.reasons if report.plan else (),
        layer_map=layer_map(report),
        steps=tuple(page_run.steps(report)),
        environment=tuple(page_run.environment(report)),
        command=report.command,
        recipe_digest=report.recipe_digest,
    )
