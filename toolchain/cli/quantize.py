"""`toolchain quantize`: an exported model to int8."""

from pathlib import Path
from typing import Annotated

import typer

from toolchain.cli import options as o
from toolchain.cli.stage import folder_digests, run_folder_step

__all__ = ["run"]


def run(
    model: Annotated[Path, typer.Argument(help="Folder written by export.", metavar="DIR")],
    output: o.Output = Path("quantized"),
    json_: o.Json = False,
    verbose: o.Verbose = False,
    debug: o.Debug = False,  # noqa: ARG001 - read by main before parsing
) -> None:
    """Quantise an exported model to int8: weights per channel, activations as they come."""
    inputs = folder_digests(model=model)
    from toolchain.steps.export import quantize

    run_folder_step(
        output,
        "quantize",
        inputs,
        {},
        lambda draft, _: quantize(draft, source=model),
        json_=json_,
        verbose=verbose,
    )
