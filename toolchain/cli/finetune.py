"""`toolchain finetune`: a bare encoder to a teacher with a head."""

from pathlib import Path

from toolchain.cli import options as o
from toolchain.cli.stage import run_stage
from toolchain.errors import UsageError

__all__ = ["run"]


def run(
    overrides: o.Overrides = None,
    teacher: o.Teacher = None,
    data: o.DataOption = None,
    output: o.Output = Path("teacher"),
    config: o.Config = None,
    max_steps: o.MaxSteps = None,
    seed: o.Seed = None,
    threads: o.Threads = None,
    json_: o.Json = False,
    verbose: o.Verbose = False,
    debug: o.Debug = False,  # noqa: ARG001 - read by main before parsing
) -> None:
    """Fine-tune a bare encoder on the task's labels and write it with its head."""
    options = {"teacher": teacher, "data.path": data, "max_steps": max_steps}
    recipe = o.build_recipe(config, overrides, {**options, "seed": seed, "threads": threads})
    from toolchain.plan import make_plan

    plan = make_plan(recipe, output)
    unpooled = plan.task.task == "embed" and plan.teacher.sentence is None
    if plan.finetune is None and not unpooled:
        raise UsageError(f"teacher {recipe.teacher}: it has a head already", "use it as it is")
    run_stage(plan, output, "finetune", json_=json_, verbose=verbose)
