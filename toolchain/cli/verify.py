"""`toolchain verify`: one model against its parent, on the task's rows."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from toolchain.cli import options as o
from toolchain.cli.console import err, working
from toolchain.cli.stage import folder_digests, run_folder_step
from toolchain.errors import GateNotMet, IntegrityError

if TYPE_CHECKING:
    from toolchain.artifact import Artifact

__all__ = ["run"]


def run(
    model: Annotated[Path, typer.Argument(help="Folder of the model to prove.", metavar="DIR")],
    against: Annotated[Path, typer.Option("--against", help="Folder of its parent.")],
    data: Annotated[str, typer.Option("--data", help="Task data.", metavar="DIR|FILE|HUB_ID")],
    output: o.Output = Path("verified"),
    threads: o.Threads = None,
    json_: o.Json = False,
    verbose: o.Verbose = False,
    debug: o.Debug = False,  # noqa: ARG001 - read by main before parsing
) -> None:
    """Compare outputs and task metric with the parent's; exit 3 or 4 where a gate is not met."""
    from toolchain import hardware, metrics
    from toolchain.recipe import Gates
    from toolchain.steps.folders import data_for, max_tokens_of, variant_of

    inputs = folder_digests(model=model, parent=against)
    task = data_for(against, data)
    metric = metrics.resolve("auto", task.task, task.labels)
    parent = variant_of(against, "parent")
    candidate = variant_of(model, "model", parent="parent")
    from toolchain.steps.verify import read_proof, verify

    with working(verbose=verbose) as progress:
        artifact = run_folder_step(
            output,
            "verify",
            {**inputs, "data": task.digest},
            {"gates": Gates().model_dump(), "metric": metric},
            lambda draft, _: verify(
                draft,
                variants=(parent, candidate),
                task=task,
                metric=metric,
                limits=Gates(),
                max_tokens=max_tokens_of(against),
                threads=threads or hardware.cores(),
                progress=progress,
            ),
            json_=json_,
            verbose=verbose,
            found=_as_json,
        )
    failed = []
    for verdict in read_proof(artifact).verdicts:
        word = "pass" if verdict.passed else "FAIL"
        line = f"{word}  {verdict.gate}: {verdict.observed} (limit: {verdict.limit})"
        err.print(line, markup=False)
        if verdict.passed is False:
            failed.append(verdict)
    if any(verdict.blocking for verdict in failed):
        raise IntegrityError(f"{model} does not compute what {against} computes")
    if failed:
        raise GateNotMet(f"{model}: {failed[0].why}", failed[0].observed)


def _as_json(artifact: "Artifact") -> dict[str, object]:
    """Return what was found, as the gates, metric and parity of report.json."""
    from toolchain.steps.verify import read_proof

    proof = read_proof(artifact)
    return {
        "gates": [verdict.as_json() for verdict in proof.verdicts],
        "metrics": {name: metric.as_json() for name, metric in proof.metrics.items()},
        "parities": {name: parity.as_json() for name, parity in proof.parities.items()},
    }
