"""`toolchain compress`: everything in one command."""

import json
import shlex
import sys
from pathlib import Path
from typing import Annotated

import typer

from toolchain.cli import options as o
from toolchain.cli.console import err, out, working
from toolchain.cli.showing import show_plan

__all__ = ["run"]


def run(
    overrides: Annotated[
        list[str] | None,
        typer.Argument(
            help="A recipe file, then key=value overrides.", metavar="[RECIPE] [K=V]..."
        ),
    ] = None,
    teacher: o.Teacher = None,
    student: o.Student = None,
    data: o.DataOption = None,
    target: o.Target = None,
    output: o.Output = Path("build"),
    config: o.Config = None,
    layers: o.Layers = None,
    hidden: o.Hidden = None,
    heads: o.Heads = None,
    ffn: o.Ffn = None,
    method: o.Method = None,
    baseline: o.Baseline = None,
    precision: o.Precision = None,
    latency: o.Latency = None,
    max_steps: o.MaxSteps = None,
    seed: o.Seed = None,
    threads: o.Threads = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print the plan and stop.")] = False,
    resume: Annotated[
        bool, typer.Option("--resume/--no-resume", help="Go on with an unfinished run (default).")
    ] = True,
    json_: o.Json = False,
    verbose: o.Verbose = False,
    debug: o.Debug = False,  # noqa: ARG001 - read by main before parsing
) -> None:
    """From a teacher and a task's data to the smallest verified student, bundled and reported."""
    recipe = o.build_recipe(
        config,
        overrides,
        {
            "teacher": teacher,
            "data.path": data,
            "targets": target,
            "student.path": student,
            "student.layers": layers,
            "student.hidden": hidden,
            "student.heads": heads,
            "student.ffn": ffn,
            "method": method,
            "baseline": baseline,
            "precisions": [*precision, "fp32"] if precision else None,
            "gates.latency_ms": o.milliseconds(latency),
            "max_steps": max_steps,
            "seed": seed,
            "threads": threads,
        },
    )
    from toolchain.plan import make_plan, probed
    from toolchain.rundir import check_output
    from toolchain.scale import launch, processes

    plan = make_plan(recipe, output)
    check_output(output, plan.recipe, fresh=not resume)
    if dry_run:
        plan = probed(plan)
        out(json.dumps(plan.as_json(), indent=2) if json_ else show_plan(plan))
        return
    if not processes.is_main():
        from toolchain.pipeline import take_part

        with launch.joined():
            take_part(plan, output)
        return
    err.print(show_plan(plan), markup=False)
    # Only now, with nothing left to refuse, is what loads weights imported.
    from toolchain.pipeline import compress
    from toolchain.report.renderers.terminal import draw

    command = shlex.join(["toolchain", *sys.argv[1:]])
    with launch.joined(), working(verbose=verbose) as progress:
        outcome = compress(plan, output, command=command, progress=progress)
    if json_:
        out(json.dumps(outcome.as_json(), indent=2))
        return
    width = err.width if err.is_terminal else 100
    out(draw(outcome.report, width=width, colour=sys.stdout.isatty()))
    out(f"report   {output / 'report' / 'report.html'}")
    for name in outcome.shipping:
        out(f"bundle   {output / 'bundles' / name}")
