"""`toolchain methods`: what can be named after --method."""

import inspect as source
import json
from typing import Annotated

import typer
from rich.table import Table

from toolchain.cli import options as o
from toolchain.cli.console import out, table_text
from toolchain.distill.term import STAGES, find_method, methods

__all__ = ["run"]


def run(
    show: Annotated[
        str | None, typer.Argument(help="The word show, to explain one.", metavar="[show]")
    ] = None,
    name: Annotated[str | None, typer.Argument(help="Method to explain.", metavar="[NAME]")] = None,
    json_: o.Json = False,
    debug: o.Debug = False,  # noqa: ARG001 - read by main before parsing
) -> None:
    """List the distillation methods, or explain one: methods show NAME."""
    if show is not None:
        chosen = o.after_show("methods", show, name)
        text = _explain(chosen)
        out(json.dumps({"name": chosen, "text": text}) if json_ else text)
        return
    rows = [(n, methods.summary(n), _stages(n)) for n in methods.names()]
    if json_:
        out(json.dumps([{"name": n, "summary": s, "stages": t} for n, s, t in rows], indent=2))
        return
    table = Table("method", "what it does", "stages", box=None, pad_edge=False)
    for row in rows:
        table.add_row(*row)
    out(table_text(table))


def _stages(name: str) -> str:
    used = {term.stage for term in find_method(name)().terms()}
    return " ".join(stage for stage in STAGES if stage in used)


def _explain(name: str) -> str:
    cls = find_method(name)
    terms = "\n".join(f"  {term.stage:8}{term}" for term in cls().terms())
    return (
        f"{name}: {methods.summary(name)}\n\n{source.cleandoc(cls.__doc__ or '')}\n\n"
        f"defaults  {source.signature(cls)}\nterms\n{terms}\n\n"
        f"example   toolchain compress --teacher DIR --data DIR --layers 3 --method {name}"
    )
