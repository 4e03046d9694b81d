"""`toolchain export`: a trained model to ONNX, or to another format."""

from pathlib import Path
from typing import Annotated

import typer

from toolchain.cli import options as o
from toolchain.cli.stage import folder_digests, run_folder_step

__all__ = ["run"]


def run(
    model: Annotated[Path, typer.Argument(help="Folder of a trained model.", metavar="DIR")],
    format: Annotated[
        str, typer.Option("--format", help="onnx, openvino or litert.", metavar="NAME")
    ] = "onnx",
    precision: Annotated[
        str, typer.Option("--precision", help="Of another format than onnx.", metavar="NAME")
    ] = "fp32",
    data: Annotated[
        str | None,
        typer.Option("--data", help="Task data, for int8 of openvino.", metavar="DIR|FILE"),
    ] = None,
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
    from toolchain.export.exporter import ONNX, exporters

    exporter = None if format == ONNX else exporters.get(format)
    looks = exporter is not None and precision in exporter.calibrated
    if exporter is None and precision != "fp32":
        raise UsageError("export writes onnx in fp32", "then use toolchain quantize")
    if exporter is not None:
        if precision not in exporter.files:
            has = ", ".join(exporter.files)
            raise UsageError(f"format {format} has no precision {precision!r}", f"it has {has}")
        exporter.check_installed(format)
        if found.task not in exporter.tasks:
            raise UsageError(f"{model}: {format} does not hold models for {found.task}")
    if looks and data is None:
        raise UsageError(f"{format} {precision} looks at texts of the task, and --data is missing")
    from toolchain.artifact import Draft
    from toolchain.steps.export import convert, export
    from toolchain.steps.folders import data_for, max_tokens_of

    inputs, task = folder_digests(model=model), None
    if looks and data is not None:
        task = data_for(model, data)
        inputs["data"] = task.digest

    def write(draft: Draft, work: Path) -> None:
        if exporter is None:
            export(draft, source=model)
            return
        from toolchain.steps.calibrate import calibration_rows

        tokens = max_tokens_of(model)
        export(Draft(work / "onnx"), source=model)
        rows = calibration_rows(model, task, max_tokens=tokens, seed=0) if task else ()
        convert(
            draft,
            format=format,
            precision=precision,
            trained=model,
            exported=work / "onnx",
            max_tokens=tokens,
            calibration=rows,
        )

    config = {} if exporter is None else {"format": format, "precision": precision}
    run_folder_step(output, "export", inputs, config, write, json_=json_, verbose=verbose)
