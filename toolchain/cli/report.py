"""`toolchain report`: a run's report rendered again."""

import json
from pathlib import Path
from typing import Annotated

import typer

from toolchain.cli import options as o
from toolchain.cli.console import out

__all__ = ["run"]


def run(
    source: Annotated[
        Path, typer.Argument(help="Output folder of a run, or its report.json.", metavar="DIR|FILE")
    ],
    output: o.Output = Path("report"),
    json_: o.Json = False,
    debug: o.Debug = False,  # noqa: ARG001 - read by main before parsing
) -> None:
    """Write report.html, report.md and report.json from a report.json."""
    found = source / "report" / "report.json" if source.is_dir() else source
    from toolchain.report.renderers.terminal import draw
    from toolchain.report.write import read, write

    report = read(found)
    written = write(report, output)
    if json_:
        out(json.dumps([str(path) for path in written]))
        return
    out(draw(report))
    for path in written:
        out(str(path))
