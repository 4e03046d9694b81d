"""`toolchain export`: a trained model to ONNX."""

from pathlib import Path
from typing import Annotated, Literal

import typer

from toolchain.cli import options as o
from toolchain.cli.console import err
from toolchain.cli.stage import folder_digests, run_folder_step

__all__ = ["run"]


def run(
    model: Annotated[Path, typer.Argument(help="Folder of a trained model.", metavar="DIR")],
    output: o.Output = Path("exported"),
    tokenizer: Annotated[
        Literal["beside", "inside"],
        typer.Option(help="inside: a further file that takes text, where it can be exact."),
    ] = "beside",
    data: Annotated[
        str | None,
        typer.Option("--data", help="Task data the text file is proved on.", metavar="DIR|FILE"),
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

    found = inspect(str(model))
    if found.task == "encode":
        raise UsageError(f"{model}: a bare encoder without a head", "fine-tune it first")
    inputs, config, task = folder_digests(model=model), {}, None
    if tokenizer == "inside":
        check_extensions()
        if found.task not in SEQUENCE:
            raise UsageError(
                f"{model}: answers token by token, so its tokens are needed",
                "leave the tokenizer beside the model",
            )
        config = {"tokenizer": "inside"}
    elif data is not None:
        raise UsageError("--data is read with --tokenizer inside only", "drop it")
    from toolchain.artifact import Draft
    from toolchain.steps.export import export
    from toolchain.steps.folders import data_for, labels_of, max_tokens_of
    from toolchain.steps.inside import put_beside_or_inside, said_of, task_rows

    if data is not None:
        task = data_for(model, data)
        inputs["data"] = task.digest

    def write(draft: Draft, _: Path) -> None:
        export(draft, source=model)
        if tokenizer == "inside":
            put_beside_or_inside(
                draft,
                model=draft.folder / str(draft.facts["file"]),
                tokenizer=draft.folder,
                rows=task_rows(task) if task else (),
                labels=list(labels_of(model).values()) if found.task == "classify" else (),
                max_tokens=max_tokens_of(model),
            )

    artifact = run_folder_step(
        output, "export", inputs, config, write, json_=json_, verbose=verbose
    )
    if tokenizer == "inside":
        err.print(said_of(artifact, str(model)), markup=False)
