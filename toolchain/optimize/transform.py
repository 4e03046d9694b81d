"""What a pass over an exported file must offer, and where passes are found by name."""

from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from toolchain.registry import Registry

__all__ = ["Pass", "PassFacts", "passes"]


@dataclass(frozen=True, kw_only=True)
class PassFacts:
    """What a pass did: `changed` places (0: it found nothing to do), nodes and bytes.

    `notes` say what it chose and why, one sentence each.
    """

    name: str
    changed: int
    nodes_before: int
    nodes_after: int
    bytes_before: int
    bytes_after: int
    notes: tuple[str, ...] = ()


class Pass(Protocol):
    """Reads one .onnx file and writes another with the same inputs and outputs."""

    def __call__(self, source: Path, out: Path) -> PassFacts:
        """Write the changed `source` to `out`; inputs, outputs and their axes stay the same.

        Raises UsageError for a file it cannot take, IntegrityError when the outputs moved further
        than the pass may move them.
        """


passes: Registry[Pass] = Registry("pass", "toolchain.optimize.passes", "apply")
