"""What a person sees while it works: bars and sentences on stderr, the result on stdout."""

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, TaskID, TaskProgressColumn, TextColumn, TimeRemainingColumn
from rich.progress import Progress as Bars
from rich.table import Table

from toolchain.errors import Interrupted
from toolchain.progress import Progress, Value

__all__ = ["err", "out", "table_text", "working"]

_LINE_SECONDS = 10.0

err = Console(stderr=True, highlight=False, soft_wrap=True)


def out(text: str) -> None:
    """Write the result to stdout."""
    sys.stdout.write(text if text.endswith("\n") else text + "\n")
    sys.stdout.flush()


def table_text(table: Table) -> str:
    """Return a table as text, as wide as the terminal or 100 columns."""
    width = err.width if err.is_terminal else 100
    console = Console(width=width, highlight=False)
    with console.capture() as capture:
        console.print(table)
    return capture.get()


@contextmanager
def working(*, verbose: bool = False) -> Iterator[Progress]:
    """Yield a Progress that draws bars on a terminal and prints lines elsewhere."""
    try:
        with _drawn(verbose) as progress:
            yield progress
    except KeyboardInterrupt:
        raise Interrupted(
            "interrupted: the state is saved", "run the same command again to go on"
        ) from None


@contextmanager
def _drawn(verbose: bool) -> Iterator[Progress]:
    if not err.is_terminal:
        yield _Lines(verbose)
        return
    bars = Bars(
        TextColumn("{task.description}"),
        BarColumn(bar_width=24),
        TaskProgressColumn(),
        TextColumn("{task.fields[figures]}"),
        TimeRemainingColumn(),
        console=err,
        transient=True,
    )
    with bars:
        yield _Bars(bars, verbose)


def _figures(figures: dict[str, Value]) -> str:
    named = {name: value for name, value in figures.items() if value is not None}
    parts = []
    for name, value in named.items():
        number = f"{value:.4g}" if isinstance(value, float) else str(value)
        parts.append(f"{number} samples/s" if name == "samples_per_s" else f"{name} {number}")
    return "  ".join(parts)


class _Bars:
    """Draws bars."""

    def __init__(self, bars: Bars, verbose: bool) -> None:
        self._bars = bars
        self._verbose = verbose
        self._tasks: dict[str, TaskID] = {}

    def say(self, message: str) -> None:
        """Print a sentence above the bars."""
        self._bars.console.print(message, markup=False)

    def advance(self, task: str, done: int, total: int, **figures: Value) -> None:
        """Move a bar; a finished one is removed."""
        if task not in self._tasks:
            self._tasks[task] = self._bars.add_task(task, total=total, completed=done, figures="")
        self._bars.update(self._tasks[task], completed=done, total=total, figures=_figures(figures))
        if done >= total:
            self._bars.remove_task(self._tasks.pop(task))

    def event(self, kind: str, **fields: Value) -> None:
        """Print it only when asked to say more."""
        if self._verbose:
            self.say(f"{kind}: {_figures(fields)}")


class _Lines:
    """Prints a line now and then, for logs."""

    def __init__(self, verbose: bool) -> None:
        self._verbose = verbose
        self._printed = 0.0
        self._started: dict[str, tuple[float, int]] = {}

    def say(self, message: str) -> None:
        """Print the sentence."""
        err.print(message, markup=False)

    def advance(self, task: str, done: int, total: int, **figures: Value) -> None:
        """Print where a task is, at most every few seconds, with the time left."""
        now = time.monotonic()
        start, first = self._started.setdefault(task, (now, done))
        if now - max(self._printed, start) < _LINE_SECONDS or done >= total:
            return
        self._printed = now
        left = (now - start) / max(1, done - first) * (total - done)
        said = _figures(figures)
        err.print(f"{task} {done}/{total}  {said}  {left:.0f} s left", markup=False)

    def event(self, kind: str, **fields: Value) -> None:
        """Print it only when asked to say more."""
        if self._verbose:
            self.say(f"{kind}: {_figures(fields)}")
