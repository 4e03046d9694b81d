"""`toolchain export`: a trained model to ONNX, or to another format."""

from pathlib import Path
from typing import Annotated, Literal

import typer

from toolchain.cli import options as o
from toolchain.cli.console import err
from toolchain.cli.stage import folder_digests, run_folder_step

__all__ = ["run"]


def run(
    model: Annotated[Path, typer.Argument(help="Folder of a trained model.", metavar="DIR")],
    format: Annotated[
        str,
        typer.Option(
            "--format", help="onnx, openvino, litert, executorch, ort or optimum.", metavar="NAME"
        ),
    ] = "onnx",
    precision: Annotated[
        str, typer.Option("--precision", help="Of another format than onnx.", metavar="NAME")
    ] = "fp32",
    output: o.Output = Path("exported"),
    tokenizer: Annotated[
        Literal["beside", "inside"],
        typer.Option(help="inside: a further file that takes text, where it can be exact."),
    ] = "beside",
    data: Annotated[
        str | None,
        typer.Option(
            "--data",
            help="Task data: for precisions that look at texts, and to prove the text file.",
            metavar="DIR|FILE",
        ),
    ] = None,
    json_: o.Json = False,
    verbose: o.Verbose = False,
    debug: o.Debug = False,  # noqa: ARG001 - read by main before parsing
) -> None:
    """Export a model with a head to ONNX with dynamic batch and length, tokenizer beside it."""
    from toolchain.errors import UsageError
    from toolchain.export.extensions import check_extensions
    from toolchain.models.checkpoint import inspect
    from toolchain.spec import SEQUENCE

    # What is no folder may look like a hub id, and this command asks no hub.
    if not model.is_dir():
        raise UsageError(f"{model}: no such folder")
    found = inspect(str(model), "model")
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
    inside = tokenizer == "inside"
    if inside and exporter is not None:
        raise UsageError("a tokenizer goes into ONNX files only", "drop --format or --tokenizer")
    if inside:
        check_extensions()
        if found.task not in SEQUENCE:
            raise UsageError(
                f"{model}: answers token by token, so its tokens are needed",
                "leave the tokenizer beside the model",
            )
    if data is not None and not looks and not inside:
        raise UsageError("--data is not read by this export", "drop it")
    from toolchain.artifact import Draft
    from toolchain.optimize.precision import FP32
    from toolchain.steps.calibrate import calibration_rows
    from toolchain.steps.export import convert, export, quantize
    from toolchain.steps.folders import data_for, labels_of, max_tokens_of
    from toolchain.steps.inside import put_beside_or_inside, said_of, task_rows
    from toolchain.steps.variants import onnx_file

    inputs, task = folder_digests(model=model), None
    if data is not None:
        task = data_for(model, data)
        inputs["data"] = task.digest

    def write(draft: Draft, work: Path) -> None:
        if exporter is not None:
            tokens = max_tokens_of(model)
            export(Draft(work / "onnx"), source=model)
            rows = calibration_rows(model, task, max_tokens=tokens, seed=0) if task else ()
            same = None
            if exporter.converts and precision != FP32:
                quantized = Draft(work / "quantized")
                quantize(quantized, source=work / "onnx", precision=precision, calibration=rows)
                same = quantized.folder / onnx_file(precision)
            convert(
                draft,
                format=format,
                precision=precision,
                trained=model,
                exported=work / "onnx",
                max_tokens=tokens,
                calibration=rows,
                onnx=same,
            )
            return
        export(draft, source=model)
        if inside:
            put_beside_or_inside(
                draft,
                model=draft.folder / str(draft.facts["file"]),
                tokenizer=draft.folder,
                rows=task_rows(task) if task else (),
                labels=list(labels_of(model).values()) if found.task == "classify" else (),
                max_tokens=max_tokens_of(model),
            )

    config = {} if exporter is None else {"format": format, "precision": precision}
    if inside:
        config["tokenizer"] = "inside"
    artifact = run_folder_step(
        output, "export", inputs, config, write, json_=json_, verbose=verbose
    )
    if inside:
        err.print(said_of(artifact, str(model)), markup=False)
