"""The last act of a run: finished files copied to the places product.md promises."""

import json
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path

from toolchain import __version__
from toolchain.artifact import file_sha256, out_of_disk, write_atomic
from toolchain.export.exporter import exporters
from toolchain.onnx_pair import DATA_SUFFIX
from toolchain.plan import Plan
from toolchain.progress import Progress
from toolchain.report.renderers import RENDERERS
from toolchain.report.report import Report
from toolchain.report.write import write
from toolchain.rundir import Done

__all__ = ["publish"]


def publish(
    output: Path,
    files: Mapping[str, Path],
    report: Report,
    plan: Plan,
    steps: Sequence[Done],
    progress: Progress,
) -> None:
    """Copy `files` (relative name to source) into `output`, write report, card and ledger.

    Files of an earlier publication that no longer belong are removed. Each file appears whole.
    """
    for folder in (*exporters.names(), "bundles"):
        _remove_others(output / folder, {output / name for name in files})
    # Weights first, so that their graph is there when it is whole.
    for name in sorted(files, key=lambda name: not name.endswith(DATA_SUFFIX)):
        _copy(files[name], output / name)
    (output / "report").mkdir(exist_ok=True)
    write(report, output / "report")
    write_atomic(output / "README.md", RENDERERS.get("card")(report))
    write_atomic(output / "run.json", json.dumps(_ledger(plan, steps), indent=2) + "\n")
    progress.event("published", files=len(files))


def _copy(source: Path, target: Path) -> None:
    if target.is_file() and file_sha256(target) == file_sha256(source):
        return
    target.parent.mkdir(parents=True, exist_ok=True)
    if target.name.endswith(DATA_SUFFIX):
        # No graph stands beside weights that are not its own, whenever this is cut off.
        target.with_name(target.name.removesuffix(DATA_SUFFIX)).unlink(missing_ok=True)
    aside = target.with_name(f".{target.name}.aside")
    try:
        shutil.copyfile(source, aside)
        aside.replace(target)
    except OSError as error:
        aside.unlink(missing_ok=True)
        raise out_of_disk(error, target) from error


def _remove_others(folder: Path, keep: set[Path]) -> None:
    if folder.is_dir():
        for path in sorted(folder.rglob("*"), reverse=True):
            if path.is_file() and path not in keep:
                path.unlink()
            elif path.is_dir() and not any(path.iterdir()):
                path.rmdir()


def _ledger(plan: Plan, steps: Sequence[Done]) -> dict[str, object]:
    return {
        "version": __version__,
        "recipe_digest": plan.recipe_digest,
        "seed": plan.recipe.seed,
        "plan": plan.as_json(),
        "steps": [
            {
                "name": done.name,
                "key": done.artifact.key,
                "digest": done.artifact.digest,
                "inputs": dict(done.inputs),
                "seconds": done.seconds,
                "skipped": done.skipped,
            }
            for done in steps
        ],
    }
