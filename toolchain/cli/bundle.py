"""`toolchain bundle`: an exported or quantised model packed for a device."""

from pathlib import Path
from typing import Annotated

import typer

from toolchain.cli import options as o
from toolchain.cli.stage import folder_digests, run_folder_step
from toolchain.errors import UsageError

__all__ = ["run"]


def run(
    model: Annotated[
        Path, typer.Argument(help="Folder written by export or quantize.", metavar="DIR")
    ],
    data: Annotated[str, typer.Option("--data", help="Task data.", metavar="DIR|FILE|HUB_ID")],
    target: Annotated[str, typer.Option("--target", help="Device.", metavar="NAME")] = "host",
    output: o.Output = Path("bundle"),
    json_: o.Json = False,
    verbose: o.Verbose = False,
    debug: o.Debug = False,  # noqa: ARG001 - read by main before parsing
) -> None:
    """Pack model, tokenizer, golden vectors, sample and self-test for one target."""
    from toolchain.steps.folders import data_for, max_tokens_of, variant_of
    from toolchain.target import load_target

    profile = load_target(target)
    inputs = folder_digests(model=model)
    task = data_for(model, data)
    variant = variant_of(model, "model")
    if variant.format == "torch":
        raise UsageError(f"{model}: not exported yet", "run toolchain export first")
    from toolchain.steps.bundle import bundle, licences_of

    run_folder_step(
        output,
        "bundle",
        {**inputs, "data": task.digest},
        {"target": profile.model_dump()},
        lambda draft, _: bundle(
            draft,
            variant=variant,
            tokenizer=model,
            target=profile,
            task=task,
            max_tokens=max_tokens_of(model),
            lineage={"model": variant.digest, "data": task.digest},
            licences=licences_of(model, ""),
            metric=None,
            measurements=(),
        ),
        json_=json_,
        verbose=verbose,
    )
