"""`toolchain export`: a trained model to ONNX."""

from pathlib import Path
from typing import Annotated

import typer

from toolchain.cli import options as o
from toolchain.cli.stage import folder_digests, run_folder_step

__all__ = ["run"]


def run(
    model: Annotated[Path, typer.Argument(help="Folder of a trained model.", metavar="DIR")],
    output: o.Output = Path("exported"),
    json_: o.Json = False,
    verbose: o.Verbose = False,
    debug: o.Debug = False,  # noqa: ARG001 - read by main before parsing
) -> None:
    """Export a model with a head to ONNX with dynamic batch and length, tokenizer beside it."""
    from toolchain.errors import UsageError
    from toolchain.models.checkpoint import inspect

    found = inspect(str(model))
    if found.task == "encode":
        raise UsageError(f"{model}: a bare encoder without a head", "fine-tune it first")
    from toolchain.steps.export import export

    inputs = folder_digests(model=model)
    run_folder_step(
        output,
        "export",
        inputs,
        {},
        lambda draft, _: export(draft, source=model),
        json_=json_,
        verbose=verbose,
    )
