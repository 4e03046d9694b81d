"""`toolchain cache`: store once what a method reads of a teacher, distil from disk many times."""

import json
from pathlib import Path

from toolchain.cli import options as o
from toolchain.cli.console import out, working
from toolchain.cli.stage import needs_head
from toolchain.errors import UsageError

__all__ = ["run"]


def run(
    overrides: o.Overrides = None,
    teacher: o.Teacher = None,
    student: o.Student = None,
    data: o.DataOption = None,
    output: o.Output = Path("cache"),
    config: o.Config = None,
    layers: o.Layers = None,
    hidden: o.Hidden = None,
    heads: o.Heads = None,
    ffn: o.Ffn = None,
    method: o.Method = None,
    seed: o.Seed = None,
    threads: o.Threads = None,
    json_: o.Json = False,
    verbose: o.Verbose = False,
    debug: o.Debug = False,  # noqa: ARG001 - read by main before parsing
) -> None:
    """Store what a method reads of the teacher on the training rows, for placement.teacher=cached.

    The student's shape decides which layers are read. The same command goes on where it was
    stopped, adds rows that are new, and makes damaged shards anew.
    """
    recipe = o.build_recipe(
        config,
        overrides,
        {
            "teacher": teacher,
            "student.path": student,
            "student.layers": layers,
            "student.hidden": hidden,
            "student.heads": heads,
            "student.ffn": ffn,
            "data.path": data,
            "method": method,
            "seed": seed,
            "threads": threads,
        },
    )
    if recipe.placement.teacher == "cached":
        raise UsageError(
            "placement.teacher is cached, and this command makes the cache",
            "drop it, and name the folder with -o",
        )
    if recipe.placement.teacher not in ("auto", "whole", "streamed"):
        raise UsageError(
            f"placement.teacher is {recipe.placement.teacher}, and a cache is filled by a teacher "
            "that is whole or streamed",
            "drop it, or set placement.teacher=streamed",
        )
    from toolchain.plan import make_plan
    from toolchain.plan.cached import check_cacheable

    plan = make_plan(recipe, output)
    needs_head(plan)
    check_cacheable(plan, "a cache was asked for")
    from toolchain.rundir import OneFolder, StepLog
    from toolchain.teaching import Teaching

    with working(verbose=verbose) as progress:
        filled = Teaching(plan, StepLog(OneFolder(output), progress)).cache(output)
    if json_:
        out(json.dumps({"teachers": [one.as_json() for one in filled]}, indent=2))
        return
    for one in filled:
        out(f"{one.folder}: {one.rows:,} rows, {one.added:,} of them new, {one.bytes:,} bytes")
