"""`toolchain plan`: whether it will fit, from configurations alone."""

import json
from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table

from toolchain.cli import options as o
from toolchain.cli.console import out, table_text
from toolchain.errors import ResourceError

if TYPE_CHECKING:
    from toolchain.plan.outlook import Outlook
    from toolchain.scale.placing import Tried

__all__ = ["run"]


def run(
    overrides: Annotated[
        list[str] | None,
        typer.Argument(
            help="A recipe file, then key=value overrides.", metavar="[RECIPE] [K=V]..."
        ),
    ] = None,
    teacher: Annotated[
        str | None,
        typer.Option(
            "--teacher", help="Model folder, config.json or hub id.", metavar="DIR|FILE|HUB_ID"
        ),
    ] = None,
    student: Annotated[
        str | None,
        typer.Option("--student", help="Folder or config.json of a student.", metavar="DIR|FILE"),
    ] = None,
    config: o.Config = None,
    layers: o.Layers = None,
    hidden: o.Hidden = None,
    heads: o.Heads = None,
    ffn: o.Ffn = None,
    method: o.Method = None,
    batch: Annotated[
        int | None, typer.Option("--batch", help="Rows of a step, over all ranks.", min=1)
    ] = None,
    tokens: Annotated[int | None, typer.Option("--tokens", help="Tokens of a row.", min=1)] = None,
    precision: Annotated[
        str | None, typer.Option("--precision", help="fp32 or bf16.", metavar="NAME")
    ] = None,
    hardware: Annotated[
        str | None,
        typer.Option("--hardware", help="As 8x40GB or host; left out, here.", metavar="NxSIZE"),
    ] = None,
    teacher_placement: Annotated[
        str | None,
        typer.Option("--teacher-placement", help="Where the teacher lies.", metavar="NAME"),
    ] = None,
    student_placement: Annotated[
        str | None,
        typer.Option("--student-placement", help="Where the student lies.", metavar="NAME"),
    ] = None,
    json_: o.Json = False,
    debug: o.Debug = False,  # noqa: ARG001 - read by main before parsing
) -> None:
    """Say whether a distillation fits some hardware, and how: no weights, no data are read."""
    recipe = o.build_recipe(
        config,
        overrides,
        {
            "teacher": teacher,
            # Nothing is read of the data, so only a recipe needs to name some.
            "data.path": None if o.has_recipe(config, overrides) else "",
            "student.path": student,
            "student.layers": layers,
            "student.hidden": hidden,
            "student.heads": heads,
            "student.ffn": ffn,
            "method": method,
            "train.batch_size": batch,
            "data.max_tokens": tokens,
            "train.precision": precision,
            "placement.hardware": hardware,
            "placement.teacher": teacher_placement,
            "placement.student": student_placement,
        },
    )
    from toolchain.plan.outlook import make_outlook

    outlook = make_outlook(recipe)
    out(json.dumps(outlook.as_json(), indent=2) if json_ else _text(outlook))
    if outlook.fitting is None:
        raise _refusal(outlook)


def _refusal(outlook: "Outlook") -> ResourceError:
    way, batch = outlook.way_out, outlook.fitting_batch
    if way:
        hint = f"the cheapest placement that fits: {way.placed}"
    elif batch:
        hint = f"with --batch {batch} one fits"
    else:
        hint = "lower --tokens, or choose a smaller student or more hardware"
    first = outlook.shown
    return ResourceError(f"{outlook.hardware}: {first.placed}: {first.refused}", hint)


def _text(outlook: "Outlook") -> str:
    job = outlook.job
    lines = [
        *(f"teacher   {spec.family} {spec}, {spec.params():,} parameters" for spec in job.teachers),
        f"student   {job.student.family} {job.student}, {job.student.params():,} parameters",
        f"method    {outlook.method}, stage {outlook.stage}: {job.batch} rows of {job.tokens} "
        f"tokens over {outlook.hardware.ranks} rank(s), {'bf16' if job.bf16 else 'fp32'}",
        f"hardware  {outlook.hardware}",
        *(f"because   {reason}" for reason in outlook.reasons),
        "",
        table_text(_placements(outlook)),
        *(f"not here  {reason}" for reason in _senseless(outlook)),
    ]
    if outlook.shown.budget:
        lines += [
            f"{outlook.shown.placed}: where the bytes are, GB (estimated)",
            table_text(_shares(outlook.shown)),
        ]
    verdict = outlook.fitting
    lines.append(f"fits: {verdict.placed}" if verdict else "nothing asked about fits")
    return "\n".join(lines)


def _senseless(outlook: "Outlook") -> list[str]:
    """Return why placements were not even weighed, each reason once."""
    found = dict.fromkeys(o.refused for o in outlook.placements if o.budget is None and o.refused)
    return list(found)


def _placements(outlook: "Outlook") -> Table:
    """Return one row per placement that makes sense here, cheapest first."""
    table = Table("teacher", "student", "GB a rank", "host", "disk", "", box=None, pad_edge=False)
    for one in outlook.placements:
        if one.budget:
            sizes = (one.budget.rank_bytes, one.budget.host_bytes, one.budget.disk_bytes)
            verdict = one.refused or ("fits, the cheapest" if one is outlook.fitting else "fits")
            placed = (one.placed.teacher, one.placed.student)
            table.add_row(*placed, *(_gb(size) for size in sizes), verdict)
    return table


def _shares(one: "Tried") -> Table:
    """Return one row per share, at each full moment."""
    table = Table("", "where", "loss", "update", "store", "", box=None, pad_edge=False)
    assert one.budget is not None
    for share in one.budget.shares:
        if share.most:
            table.add_row(share.name, share.where, *(_gb(size) for size in share.at), share.formula)
    moments = ("loss", "update", "store")
    totals = (_gb(one.budget.rank_at(moment)) for moment in moments)  # type: ignore[arg-type]
    table.add_row("a rank", "", *totals, "")
    if one.budget.before:
        table.add_row(
            "pass before it", "rank", _gb(one.budget.before), "", "", "two blocks at once"
        )
    if one.budget.disk_per_token:
        per = f"{one.budget.disk_per_token:,} bytes per token of the data"
        table.add_row("cache", "disk", "", "", "", per)
    return table


def _gb(size: int) -> str:
    return f"{size / 1e9:,.2f}"
