"""`toolchain distill`: train a student against its teacher."""

from pathlib import Path
from typing import Annotated

import typer

from toolchain.cli import options as o
from toolchain.cli.stage import needs_head, run_stage
from toolchain.errors import UsageError

__all__ = ["run"]


def run(
    overrides: o.Overrides = None,
    teacher: o.Teacher = None,
    student: o.Student = None,
    data: o.DataOption = None,
    output: o.Output = Path("distilled"),
    config: o.Config = None,
    method: o.Method = None,
    cache: Annotated[
        str | None,
        typer.Option("--cache", help="Read the teacher from here, not its weights.", metavar="DIR"),
    ] = None,
    labels_only: Annotated[
        bool, typer.Option("--labels-only", help="Train the fair baseline instead.")
    ] = False,
    teacher_placement: Annotated[
        str | None,
        typer.Option(
            "--teacher-placement", help="Where the teacher lies: whole, zero3 ...", metavar="NAME"
        ),
    ] = None,
    student_placement: Annotated[
        str | None,
        typer.Option(
            "--student-placement", help="Where the student lies: whole, zero2 ...", metavar="NAME"
        ),
    ] = None,
    max_steps: o.MaxSteps = None,
    seed: o.Seed = None,
    threads: o.Threads = None,
    json_: o.Json = False,
    verbose: o.Verbose = False,
    debug: o.Debug = False,  # noqa: ARG001 - read by main before parsing
) -> None:
    """Distil the teacher into a student written by design, or into one of your own."""
    recipe = o.build_recipe(
        config,
        overrides,
        {
            "teacher": teacher,
            "student.path": student,
            "data.path": data,
            "method": method,
            "placement.cache": cache,
            "placement.teacher": teacher_placement or ("cached" if cache else None),
            "placement.student": student_placement,
            "max_steps": max_steps,
            "seed": seed,
            "threads": threads,
        },
    )
    if recipe.student.path is None:
        raise UsageError("--student is missing", "make one with toolchain design")
    from toolchain.plan import make_plan

    plan = make_plan(recipe, output)
    needs_head(plan)
    run_stage(plan, output, "baseline" if labels_only else "distill", json_=json_, verbose=verbose)
