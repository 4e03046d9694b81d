"""`toolchain design`: a student's shape and starting weights."""

from pathlib import Path

from toolchain.cli import options as o
from toolchain.cli.stage import needs_head, run_stage

__all__ = ["run"]


def run(
    overrides: o.Overrides = None,
    teacher: o.Teacher = None,
    data: o.DataOption = None,
    output: o.Output = Path("student"),
    config: o.Config = None,
    layers: o.Layers = None,
    hidden: o.Hidden = None,
    heads: o.Heads = None,
    ffn: o.Ffn = None,
    method: o.Method = None,
    seed: o.Seed = None,
    json_: o.Json = False,
    verbose: o.Verbose = False,
    debug: o.Debug = False,  # noqa: ARG001 - read by main before parsing
) -> None:
    """Write an untrained student of a shape, started from the teacher's layers where they fit."""
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
            "method": method,
            "seed": seed,
        },
    )
    from toolchain.plan import make_plan

    plan = make_plan(recipe, output)
    needs_head(plan)
    run_stage(plan, output, "design", json_=json_, verbose=verbose)
