"""`toolchain quantize`: an exported model in fewer bits."""

from pathlib import Path
from typing import Annotated

import typer

from toolchain.cli import options as o
from toolchain.cli.stage import folder_digests, run_folder_step
from toolchain.errors import UsageError

__all__ = ["run"]


def run(
    model: Annotated[Path, typer.Argument(help="Folder written by export.", metavar="DIR")],
    precision: Annotated[
        str,
        typer.Option("--precision", help="int8, or another of docs/precisions.md.", metavar="NAME"),
    ] = "int8",
    data: Annotated[
        str | None,
        typer.Option(
            "--data", help="Task data, for precisions that look at texts.", metavar="DIR|FILE"
        ),
    ] = None,
    output: o.Output = Path("quantized"),
    json_: o.Json = False,
    verbose: o.Verbose = False,
    debug: o.Debug = False,  # noqa: ARG001 - read by main before parsing
) -> None:
    """Write an exported model in fewer bits: int8 by default, activations as they come."""
    from toolchain.optimize.precision import precisions

    looks = precisions.get(precision).calibrated
    if looks and data is None:
        raise UsageError(
            f"precision {precision} looks at texts of the task, and --data is missing",
            "name the task's data",
        )
    if data is not None and not looks:
        raise UsageError(f"--data is not read by precision {precision}", "drop it")
    inputs, task, tokens = folder_digests(model=model), None, 0
    from toolchain.artifact import Draft
    from toolchain.steps.calibrate import calibration_rows
    from toolchain.steps.export import quantize
    from toolchain.steps.folders import data_for, max_tokens_of

    if data is not None:
        task, tokens = data_for(model, data), max_tokens_of(model)
        inputs["data"] = task.digest

    def write(draft: Draft, _: Path) -> None:
        rows = calibration_rows(model, task, max_tokens=tokens, seed=0) if task else ()
        quantize(draft, source=model, precision=precision, calibration=rows)

    run_folder_step(
        output,
        "quantize",
        inputs,
        {"precision": precision},
        write,
        json_=json_,
        verbose=verbose,
    )
