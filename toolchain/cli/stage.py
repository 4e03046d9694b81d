"""What the stage commands share: run one step into one folder and say what came out."""

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from toolchain.cli.console import err, out, working
from toolchain.errors import UsageError

if TYPE_CHECKING:
    from toolchain.artifact import Artifact, Draft
    from toolchain.plan import Plan

__all__ = ["folder_digests", "needs_head", "run_folder_step", "run_stage"]


def needs_head(plan: "Plan") -> None:
    """Refuse a teacher that has still to be fine-tuned."""
    if plan.task.task == "embed":
        _needs_pooling(plan)
        return
    bare = [other for other in plan.others if other.finetune]
    if plan.finetune is None and bare:
        raise UsageError(
            f"teacher {bare[0].checkpoint.source}: a bare encoder without a head",
            "give it one with toolchain finetune",
        )
    if plan.finetune is not None:
        raise UsageError(
            f"teacher {plan.recipe.teacher}: a bare encoder without a head",
            "give it one with toolchain finetune",
        )


def _needs_pooling(plan: "Plan") -> None:
    """Refuse a teacher whose folder does not say how its states become embeddings."""
    for checkpoint in plan.checkpoints:
        if checkpoint.sentence is None:
            raise UsageError(
                f"teacher {checkpoint.source}: its folder does not say how texts are pooled",
                "write it down with toolchain finetune --data ... data.task=embed",
            )


def run_stage(
    plan: "Plan",
    output: Path,
    stage: Literal["finetune", "design", "distill", "baseline"],
    *,
    json_: bool,
    verbose: bool,
) -> None:
    """Do one step of a plan into `output` and print what it made."""
    from toolchain.cli.showing import show_plan
    from toolchain.progress import Null
    from toolchain.rundir import OneFolder, StepLog
    from toolchain.scale import launch, processes
    from toolchain.teaching import Teaching

    _check_single(plan, stage)
    if processes.is_main():
        err.print(show_plan(plan), markup=False)
    with launch.joined(), working(verbose=verbose) as progress:
        log = StepLog(OneFolder(output), progress if processes.is_main() else Null())
        teaching = Teaching(plan, log)
        steps: Mapping[str, Callable[[], None]] = {
            "finetune": teaching.finetune,
            "design": teaching.design,
            "distill": teaching.distill,
            "baseline": teaching.baseline,
        }
        steps[stage]()
    if processes.is_main():
        _print(log.steps[-1].artifact, json_, {})


def _check_single(plan: "Plan", stage: str) -> None:
    """Refuse what takes more than the one step this command does."""
    if stage == "finetune" and plan.others:
        raise UsageError(
            f"the recipe names {1 + len(plan.others)} teachers, finetune makes one",
            "fine-tune each by itself, or use toolchain compress",
        )
    if plan.assistants:
        raise UsageError(
            "the recipe names assistants, which are steps of their own",
            "use toolchain compress, or distil each assistant and give it as the next teacher",
        )


def run_folder_step(
    output: Path,
    name: str,
    inputs: Mapping[str, str],
    config: object,
    write: "Callable[[Draft, Path], None]",
    *,
    json_: bool,
    verbose: bool,
    found: "Callable[[Artifact], Mapping[str, object]] | None" = None,
) -> "Artifact":
    """Do one step that reads folders, and print what it made: where it lies, or JSON.

    `found` reads out of it what the JSON says beside that.
    """
    from toolchain.rundir import OneFolder, do_step

    with working(verbose=verbose) as progress:
        done = do_step(OneFolder(output), name, inputs, config, write, progress)
    _print(done.artifact, json_, found(done.artifact) if found else {})
    return done.artifact


def folder_digests(**folders: Path) -> dict[str, str]:
    """Return a digest of each folder's content by the name it was given under."""
    from toolchain.artifact import MANIFEST, Artifact, file_sha256, folder_digest

    digests = {}
    for name, folder in folders.items():
        if not folder.is_dir():
            raise UsageError(f"{folder}: no such folder")
        if (folder / MANIFEST).is_file():
            digests[name] = Artifact.open(folder).digest
        else:
            files = (p for p in sorted(folder.rglob("*")) if p.is_file())
            digests[name] = folder_digest(
                {p.relative_to(folder).as_posix(): file_sha256(p) for p in files}
            )
    return digests


def _print(artifact: "Artifact", json_: bool, more: Mapping[str, object]) -> None:
    if json_:
        found = {"folder": str(artifact.root), "digest": artifact.digest}
        out(json.dumps({**found, "facts": dict(artifact.facts), **more}, indent=2))
    else:
        out(str(artifact.root))
