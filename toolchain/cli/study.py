"""`toolchain study`: which knowledge, matching, start, shape and size suit a task."""

import json
import shlex
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table

from toolchain.cli import options as o
from toolchain.cli.console import out, table_text, working
from toolchain.errors import UsageError

if TYPE_CHECKING:
    from toolchain.study.asked import StudySettings
    from toolchain.study.design import Design
    from toolchain.study.findings import Findings

__all__ = ["run"]

_FILES = (("report", "study.html"), ("recipe", "guideline.yaml"))


def run(
    overrides: Annotated[
        list[str] | None,
        typer.Argument(
            help="A recipe file, then key=value overrides.", metavar="[RECIPE] [K=V]..."
        ),
    ] = None,
    teacher: o.Teacher = None,
    data: o.DataOption = None,
    budget: Annotated[
        str, typer.Option("--budget", help="Time for all of it, as 90s, 20m or 1h.", metavar="TIME")
    ] = "1h",
    seeds: Annotated[int, typer.Option("--seeds", help="Seeds of every variant.", min=1)] = 3,
    axis: Annotated[
        list[str] | None,
        typer.Option(
            "--axis",
            help="knowledge, initialisation, matching, shape or size; may be repeated (all).",
            metavar="NAME",
        ),
    ] = None,
    output: o.Output = Path("study"),
    config: o.Config = None,
    layers: o.Layers = None,
    hidden: o.Hidden = None,
    heads: o.Heads = None,
    ffn: o.Ffn = None,
    max_steps: o.MaxSteps = None,
    seed: o.Seed = None,
    threads: o.Threads = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Print the experiments and stop.")
    ] = False,
    json_: o.Json = False,
    verbose: o.Verbose = False,
    debug: o.Debug = False,  # noqa: ARG001 - read by main before parsing
) -> None:
    """Try knowledge, start, matching, shape and size on a task, one at a time, within a budget."""
    started = time.monotonic()
    recipe = o.build_recipe(
        config,
        overrides,
        {
            "teacher": teacher,
            "data.path": data,
            "student.layers": layers,
            "student.hidden": hidden,
            "student.heads": heads,
            "student.ffn": ffn,
            "max_steps": max_steps,
            "seed": seed,
            "threads": threads,
        },
    )
    from toolchain.config import parse
    from toolchain.rundir import check_output
    from toolchain.scale import processes
    from toolchain.study.asked import AXES, StudySettings
    from toolchain.study.design import make_design

    if processes.ranks() > 1:
        raise UsageError("a study is one process's work", "start it without a launcher")
    asked = {"budget_s": o.budget_seconds(budget), "seeds": seeds, "axes": axis or list(AXES)}
    settings = parse(StudySettings, asked, where="study")
    design = make_design(recipe, settings.axes, output)
    study = design.asked_for(settings)
    check_output(output, study)
    if dry_run:
        _show(design, settings, json_=json_)
        return
    # Only now, with nothing left to refuse, is what loads weights imported.
    from toolchain.study.run import study as run_study
    from toolchain.study.write import write

    command = shlex.join(["toolchain", *sys.argv[1:]])
    with working(verbose=verbose) as progress:
        findings = run_study(
            study, design, output, command=command, started=started, progress=progress
        )
    write(findings, output)
    out(json.dumps(findings.as_json(), indent=2) if json_ else _guideline(findings, output))


def _show(design: "Design", settings: "StudySettings", *, json_: bool) -> None:
    """Print what would be trained, for how long by estimate, and what would not."""
    from toolchain.study.schedule import guessed, schedule

    speed = guessed(design, settings.budget_s)
    planned = schedule(design, speed, budget_s=settings.budget_s, seeds=settings.seeds)
    refused = [f"not tried: {r.choice} ({r.axis}): {r.why}" for r in design.refused]
    rows = [
        (axis.name, choice.name, design.variants[choice.variant].plan.student)
        for axis in design.axes
        if axis.name in planned.axes
        for choice in axis.choices
    ]
    if json_:
        choices = [{"axis": a, "choice": c, "shape": str(s)} for a, c, s in rows]
        told = {"schedule": planned.as_json(), "choices": choices, "refused": refused}
        out(json.dumps(told, indent=2))
        return
    table = Table("axis", "choice", "student")
    last = ""
    for name, choice, shape in rows:
        table.add_row(name if name != last else "", choice, str(shape))
        last = name
    out(table_text(table))
    out(
        f"{len(planned.variants)} variants, {planned.seeds} seeds, {planned.steps} steps each: "
        f"about {planned.estimate_s / 60:.1f} min (estimated; the study measures first)"
    )
    for line in (*planned.notes, *refused):
        out(line)


def _guideline(findings: "Findings", output: Path) -> str:
    from toolchain.study import words

    table = Table("axis", "choice", "mean", "difference", "95 % interval", "rank")
    for axis, found, _ in findings.compared:
        for number, effect in enumerate(found):
            choice, _, *figures = words.cells(effect)
            table.add_row("" if number else axis.name, choice, *figures)
        table.add_section()
    lines = [f"{axis.name:15} {said.sentence}" for axis, _, said in findings.compared]
    files = [f"{name:15} {output / file}" for name, file in _FILES]
    return "\n".join([table_text(table).rstrip(), *lines, *files])
