"""`toolchain methods`: what can be named after --method."""

import inspect as source
import json
from typing import Annotated

import typer
from rich.table import Table

from toolchain.cli import options as o
from toolchain.cli.console import out, table_text

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
    from toolchain.distill.catalogue import cards

    if json_:
        out(json.dumps([c.as_json() for c in cards()], indent=2))
        return
    table = Table("method", "stages", "knowledge", "requires", "source", box=None, pad_edge=False)
    for c in cards():
        columns = (c.stages, c.knowledge, c.requirements)
        table.add_row(c.name, *(", ".join(column) or "-" for column in columns), c.citation)
    out(table_text(table))


def _memory(name: str) -> str:
    from toolchain.distill.catalogue import loss_sizes

    return "\n".join(
        f"  {stage:8}{what:24}{size / 2**20:8.1f} MiB" for stage, what, size in loss_sizes(name)
    )


def _explain(name: str) -> str:
    from toolchain.distill.catalogue import LOSS_SHAPE, card
    from toolchain.distill.term import find_method

    cls, about = find_method(name), card(name)
    terms = "\n".join(f"  {term.stage:8}{term}" for term in cls().terms())
    return (
        f"{name}: {about.summary}\n\n{source.cleandoc(cls.__doc__ or '')}\n\n"
        f"defaults  {source.signature(cls)}\n"
        f"requires  {', '.join(about.requirements) or 'nothing'}\n"
        f"source    {about.citation}\nterms\n{terms}\n"
        f"memory of the loss, {LOSS_SHAPE} (estimated)\n{_memory(name)}\n\n"
        f"example   toolchain compress --teacher DIR --data DIR{_more(name)} --method {name}"
    )


def _more(name: str) -> str:
    """Return what the method cannot do without, as words of a command."""
    from toolchain.distill.term import find_method

    cls = find_method(name)
    words = "" if cls.init == "teacher_copy" else " --layers 3"
    if cls.needs_teachers > 1:
        words += " 'teachers=[DIR]'"
    return words + " 'assistants=[{layers: 5}]'" * bool(cls.needs_assistants)
