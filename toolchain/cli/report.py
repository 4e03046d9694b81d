"""`toolchain report`: a run's report rendered again."""

import json
from pathlib import Path
from typing import Annotated

import typer

from toolchain.cli import options as o
from toolchain.cli.console import out
from toolchain.errors import UsageError

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
    try:
        content = json.loads(found.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UsageError(f"{found}: no such file", "give the output folder of a run") from None
    except ValueError as error:
        raise UsageError(f"{found}: not JSON: {error}") from None
    if not isinstance(content, dict):
        raise UsageError(f"{found}: expected an object")
    from toolchain.report.renderers.terminal import draw
    from toolchain.report.report import Report
    from toolchain.report.write import write

    report = Report.from_json(content, where=str(found))
    output.mkdir(parents=True, exist_ok=True)
    written = write(report, output)
    if json_:
        out(json.dumps([str(path) for path in written]))
        return
    out(draw(report))
    for path in written:
        out(str(path))
