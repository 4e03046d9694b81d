"""`toolchain targets`: what can be named after --target."""

import json
from typing import Annotated

import typer
from rich.table import Table

from toolchain.cli import options as o
from toolchain.cli.console import out, table_text
from toolchain.config import dump_yaml
from toolchain.target import load_target, target_names

__all__ = ["run"]


def run(
    show: Annotated[
        str | None, typer.Argument(help="The word show, to print one.", metavar="[show]")
    ] = None,
    name: Annotated[str | None, typer.Argument(help="Target to print.", metavar="[NAME]")] = None,
    json_: o.Json = False,
    debug: o.Debug = False,  # noqa: ARG001 - read by main before parsing
) -> None:
    """List the devices a model can be made for, or print one: targets show NAME."""
    if show is not None:
        target = load_target(o.after_show("targets", show, name))
        out(target.model_dump_json(indent=2) if json_ else dump_yaml(target))
        return
    found = [load_target(name) for name in target_names()]
    if json_:
        out(json.dumps([target.model_dump(mode="json") for target in found], indent=2))
        return
    table = Table("target", "kind", "device", "precisions", box=None, pad_edge=False)
    for target in found:
        table.add_row(target.name, target.kind, target.summary, " ".join(target.accepts.precisions))
    out(table_text(table))
