"""The folder of a run: whose it is, who works in it, and what is finished in it.

`<output>/.run` holds one folder per finished step, working state of the one in progress, and a
lock. A step is finished when its folder has a manifest with the key of what it was made from.
"""

import fcntl
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from toolchain import __version__
from toolchain.artifact import MANIFEST, Artifact, Draft, digest_of, drafting, write_atomic
from toolchain.config import dump_yaml, read_yaml
from toolchain.errors import UsageError
from toolchain.progress import Progress
from toolchain.recipe import Recipe
from toolchain.scale import launch, processes

__all__ = [
    "RECIPE",
    "Done",
    "OneFolder",
    "Place",
    "RunFolder",
    "StepLog",
    "check_output",
    "claim",
    "do_step",
]

RECIPE = "recipe.yaml"
_RUN = ".run"


@dataclass(frozen=True, kw_only=True)
class Done:
    """A finished step: its artifact, how long it took, whether it was found finished."""

    name: str
    artifact: Artifact
    seconds: float
    inputs: Mapping[str, str]
    skipped: bool


def check_output(output: Path, recipe: Recipe, *, fresh: bool = False) -> None:
    """Refuse an output folder that cannot be used. Raises UsageError; writes nothing.

    With `fresh`, a folder that holds any run is refused as well.
    """
    parent = output
    while not parent.exists():
        parent = parent.parent
    if not parent.is_dir():
        raise UsageError(f"output {output}: {parent} is a file, not a folder")
    if not os.access(parent, os.W_OK):
        raise UsageError(f"output {output}: {parent} is not writable")
    if not output.exists() or not {p.name for p in output.iterdir()} - {_RUN}:
        return
    if fresh:
        raise UsageError(f"output {output}: holds a run already", "choose another folder")
    saved = output / RECIPE
    if not saved.is_file():
        raise UsageError(
            f"output {output}: the folder is not empty and holds no run", "choose another folder"
        )
    difference = _difference(read_yaml(saved), recipe)
    if difference:
        raise UsageError(
            f"output {output}: holds the run of another recipe ({difference})",
            "choose another folder, or remove this one",
        )


def _difference(old: Mapping[str, Any], recipe: Recipe) -> str:
    new = recipe.model_dump(mode="json")
    before, now = dict(_leaves(old)), dict(_leaves(new))
    changed = [key for key in {**now, **before} if before.get(key) != now.get(key)]
    if not changed:
        return ""
    key = changed[0]
    more = f" and {len(changed) - 1} more" if len(changed) > 1 else ""
    return f"{key} was {before.get(key)!r}, is {now.get(key)!r}{more}"


def _leaves(tree: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in tree.items():
        if isinstance(value, Mapping) and value:
            yield from _leaves(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


@contextmanager
def claim(output: Path, recipe: Recipe) -> Iterator["RunFolder"]:
    """Take the output folder for this process. Raises UsageError while another one works in it."""
    root = output / _RUN
    try:
        root.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UsageError(f"output {output}: cannot be made: {error.strerror}") from None
    with (root / "lock").open("w") as lock:
        try:
            # The kernel drops the lock with the process, however it ends.
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise UsageError(
                f"output {output}: another run is working in it", "wait for it, or choose another"
            ) from None
        write_atomic(output / RECIPE, dump_yaml(recipe))
        yield RunFolder(output)


class Place(Protocol):
    """Where the folder of a step lies, and where it may keep working state."""

    def folder(self, step: str) -> Path:
        """Return the folder the step writes."""

    def work(self, step: str, key: str) -> Path:
        """Return a folder for its working state."""


class RunFolder:
    """Finished steps of one run, below its output folder."""

    def __init__(self, output: Path) -> None:
        self.output = output
        self.root = output / _RUN

    def folder(self, step: str) -> Path:
        """Return `<output>/.run/<step>`."""
        return self.root / step

    def work(self, step: str, key: str) -> Path:
        """Return a folder of the run that only this very step uses."""
        return self.root / "work" / f"{step}-{key[:12]}"


class OneFolder:
    """A single step whose folder is the output itself."""

    def __init__(self, output: Path) -> None:
        self.output = output

    def folder(self, step: str) -> Path:
        """Return the output folder. Raises UsageError when it holds something else."""
        output = self.output
        if output.exists() and (not output.is_dir() or any(output.iterdir())):
            found = Artifact.open(output, check=False) if (output / MANIFEST).is_file() else None
            if found is None or found.made_by.get("step") != step:
                raise UsageError(
                    f"output {output}: not empty, and not written by {step}",
                    "choose another folder",
                )
        return output

    def work(self, step: str, key: str) -> Path:
        """Return a folder beside the output, so that a kill loses nothing."""
        return self.output.absolute().with_name(f".{self.output.name}.{step}-{key[:12]}")


def do_step(
    place: Place,
    name: str,
    inputs: Mapping[str, str],
    config: object,
    write: Callable[[Draft, Path], None],
    progress: Progress,
    *,
    together: bool = False,
) -> Done:
    """Return the finished step, doing it only if no whole result of the same key is there.

    `inputs` are digests, `config` anything JSON-able that decides the outcome; `write` gets the
    draft and a working folder that survives a kill and is removed at the end. Of several processes
    the main one does the step and the others wait, or take part in it (`together`).
    """
    key = digest_of(
        {"step": name, "version": __version__, "inputs": dict(inputs), "config": config}
    )
    folder, work = place.folder(name), place.work(name, key)
    launch.share(work)
    if not processes.is_main():
        return _beside_main(folder, name, inputs, write if together else None, work)
    found = Artifact.find(folder, key)
    launch.told(found is not None)
    if found:
        seconds = float(found.made_by.get("seconds", 0.0))
        progress.event("skipped", step=name, digest=found.digest)
        return Done(name=name, artifact=found, seconds=seconds, inputs=inputs, skipped=True)
    progress.event("step", step=name, key=key)
    started = time.monotonic()
    made_by: dict[str, Any] = {"step": name, "key": key, "version": __version__}
    with drafting(folder, made_by) as draft:
        draft.parent = next(iter(inputs.values()), "")
        write(draft, work)
        # The others may still be reading there.
        launch.meet()
        made_by["seconds"] = round(time.monotonic() - started, 3)
    launch.meet()
    shutil.rmtree(work, ignore_errors=True)
    artifact = Artifact.open(folder)
    seconds = float(made_by["seconds"])
    progress.event("finished", step=name, digest=artifact.digest, seconds=seconds)
    return Done(name=name, artifact=artifact, seconds=seconds, inputs=inputs, skipped=False)


def _beside_main(
    folder: Path,
    name: str,
    inputs: Mapping[str, str],
    write: Callable[[Draft, Path], None] | None,
    work: Path,
) -> Done:
    """Take part in what the main process does, and find what it made."""
    skipped = launch.told(None)
    if not skipped:
        if write:
            with tempfile.TemporaryDirectory() as nowhere:
                write(Draft(Path(nowhere)), work)
        launch.meet()
        launch.meet()
    artifact = Artifact.open(folder)
    seconds = float(artifact.made_by.get("seconds", 0.0))
    return Done(name=name, artifact=artifact, seconds=seconds, inputs=inputs, skipped=skipped)


class StepLog:
    """The steps of one run: each is done or found finished, and remembered in order."""

    def __init__(self, place: Place, progress: Progress) -> None:
        self.place, self.progress = place, progress
        self.steps: list[Done] = []
        self.done: dict[str, Done] = {}

    def step(
        self,
        name: str,
        inputs: Mapping[str, str],
        config: object,
        write: Callable[[Draft, Path], None],
        *,
        together: bool = False,
    ) -> Done:
        """Do or find one step and remember it; processes do those `together` that train."""
        progress = self.progress
        done = do_step(self.place, name, inputs, config, write, progress, together=together)
        self.steps.append(done)
        self.done[name] = done
        seconds = "already done" if done.skipped else f"{done.seconds:.1f} s"
        self.progress.say(f"{name}: {seconds}")
        return done
