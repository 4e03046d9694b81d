"""How a term's weight changes: pure functions of progress in [0, 1]."""

from dataclasses import dataclass
from typing import Protocol

__all__ = ["Constant", "Gate", "Linear", "Schedule"]


class Schedule(Protocol):
    """Maps progress (steps done / steps in all) to a factor on the weight."""

    def __call__(self, progress: float) -> float:
        """Return the factor at this progress."""


@dataclass(frozen=True)
class Constant:
    """Always 1."""

    def __call__(self, progress: float) -> float:  # noqa: ARG002
        """Return 1."""
        return 1.0


@dataclass(frozen=True)
class Linear:
    """From `start` to `end` in a straight line."""

    start: float
    end: float

    def __call__(self, progress: float) -> float:
        """Return the point on the line."""
        return self.start + (self.end - self.start) * progress


@dataclass(frozen=True)
class Gate:
    """1 from `opens` until `closes` (parts of the run), else 0."""

    opens: float = 0.0
    closes: float = 1.0

    def __call__(self, progress: float) -> float:
        """Return 1 inside the gate; the end of the run belongs to it when `closes` is 1."""
        inside = self.opens <= progress < self.closes or (progress >= 1.0 and self.closes >= 1.0)
        return 1.0 if inside else 0.0
