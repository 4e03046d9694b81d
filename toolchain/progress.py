"""How long work tells what it is doing, without knowing who listens.

Library code is handed a Progress and never prints. The default says nothing; the command line
passes one that draws bars on stderr; `Journal` appends every event to events.jsonl.
"""

import json
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Protocol

__all__ = ["Journal", "Null", "Progress", "Tee"]

Value = str | int | float | bool | None


class Progress(Protocol):
    """Receives what a step says while it works."""

    def say(self, message: str) -> None:
        """One sentence worth reading: a decision and its reason, a warning, a result."""

    def advance(self, task: str, done: int, total: int, **figures: Value) -> None:
        """`done` of `total` units of `task` are finished; `figures` are its live numbers."""

    def event(self, kind: str, **fields: Value) -> None:
        """Something that belongs in the log but not on the screen."""


class Null:
    """Says nothing."""

    def say(self, message: str) -> None:
        """Drop it."""

    def advance(self, task: str, done: int, total: int, **figures: Value) -> None:
        """Drop it."""

    def event(self, kind: str, **fields: Value) -> None:
        """Drop it."""


class Journal:
    """Appends one JSON object per line; a line cut short by a kill is ended by the next open."""

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        torn = path.exists() and path.stat().st_size and not path.read_bytes().endswith(b"\n")
        self._file = path.open("a", encoding="utf-8")
        if torn:
            self._file.write("\n")

    def say(self, message: str) -> None:
        """Log the sentence."""
        self.event("say", message=message)

    def advance(self, task: str, done: int, total: int, **figures: Value) -> None:
        """Log only the end of a task: its ticks are too many to keep."""
        if done >= total:
            self.event("done", task=task, total=total, **figures)

    def event(self, kind: str, **fields: Value) -> None:
        """Append the event with its time (Unix seconds)."""
        record: Mapping[str, Value] = {"time": round(time.time(), 3), "event": kind, **fields}
        self._file.write(json.dumps(record) + "\n")
        self._file.flush()

    def close(self) -> None:
        """Close the file."""
        self._file.close()


class Tee:
    """Says everything to several listeners."""

    def __init__(self, *listeners: Progress) -> None:
        self._listeners = listeners

    def say(self, message: str) -> None:
        """Pass it on."""
        for listener in self._listeners:
            listener.say(message)

    def advance(self, task: str, done: int, total: int, **figures: Value) -> None:
        """Pass it on."""
        for listener in self._listeners:
            listener.advance(task, done, total, **figures)

    def event(self, kind: str, **fields: Value) -> None:
        """Pass it on."""
        for listener in self._listeners:
            listener.event(kind, **fields)
