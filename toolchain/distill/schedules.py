"""How a term's weight changes: pure functions of progress in [0, 1].

A schedule may treat the pairs of a matching differently (`pair` of `pairs`, from 0): that is how
layers are unlocked one after another.
"""

from abc import abstractmethod
from dataclasses import dataclass
from typing import ClassVar, Literal

from toolchain.errors import UsageError

__all__ = [
    "Constant",
    "Gate",
    "Linear",
    "LinearThen",
    "Schedule",
    "StepAnneal",
    "Unlock",
]


class Schedule:
    """Maps progress (steps done / steps in all) to a factor on the weight. Base of all."""

    key: ClassVar[str] = ""

    @abstractmethod
    def __call__(self, progress: float) -> float:
        """Return the factor on the whole term at this progress."""

    def of_pair(self, progress: float, pair: int, pairs: int) -> float:  # noqa: ARG002
        """Return the factor on one pair of the matching, from 0; 1 for most schedules."""
        return 1.0


@dataclass(frozen=True)
class Constant(Schedule):
    """Always 1."""

    key: ClassVar[str] = "constant"

    def __call__(self, progress: float) -> float:  # noqa: ARG002
        """Return 1."""
        return 1.0


@dataclass(frozen=True)
class Linear(Schedule):
    """From `start` to `end` in a straight line, between two parts of the run."""

    key: ClassVar[str] = "linear"
    start: float
    end: float
    begins: float = 0.0
    ends: float = 1.0

    def __post_init__(self) -> None:
        """Refuse a line that ends before it starts."""
        _check_order("linear", self.begins, self.ends)

    def __call__(self, progress: float) -> float:
        """Return the point on the line; flat before and after it."""
        part = min(1.0, max(0.0, (progress - self.begins) / (self.ends - self.begins)))
        return self.start + (self.end - self.start) * part


@dataclass(frozen=True)
class Gate(Schedule):
    """1 from `opens` until `closes` (parts of the run), else 0."""

    key: ClassVar[str] = "gate"
    opens: float = 0.0
    closes: float = 1.0

    def __post_init__(self) -> None:
        """Refuse a gate that closes before it opens."""
        _check_order("gate", self.opens, self.closes)

    def __call__(self, progress: float) -> float:
        """Return 1 inside the gate; the end of the run belongs to it when `closes` is 1."""
        inside = self.opens <= progress < self.closes or (progress >= 1.0 and self.closes >= 1.0)
        return 1.0 if inside else 0.0


@dataclass(frozen=True)
class Unlock(Schedule):
    """Pair after pair in equal parts of the run until `ends` (SID, arXiv 1910.03723, section 3.2).

    "stacked" keeps earlier pairs in the sum, "progressive" drops them. After `ends` all pairs count
    when stacked, none when progressive.
    """

    key: ClassVar[str] = "unlock"
    how: Literal["stacked", "progressive"] = "stacked"
    ends: float = 1.0

    def __post_init__(self) -> None:
        """Refuse an end outside the run."""
        _check_order("unlock", 0.0, self.ends)

    def __call__(self, progress: float) -> float:
        """Return 1 while any pair counts."""
        return 1.0 if self.how == "stacked" or progress < self.ends else 0.0

    def turn(self, progress: float, pairs: int) -> int:
        """Return the pair whose turn it is, from 0; `pairs` when all have had theirs."""
        return min(pairs, int(progress / self.ends * pairs + 1e-9))

    def of_pair(self, progress: float, pair: int, pairs: int) -> float:
        """Return 1 for pairs that are unlocked."""
        current = self.turn(progress, pairs)
        unlocked = pair <= current if self.how == "stacked" else pair == current
        return 1.0 if unlocked else 0.0


@dataclass(frozen=True)
class LinearThen(Schedule):
    """From `start` to `end` in a straight line until a part of the run, `after` from then on.

    Continuation-KD (arXiv 2212.05998) weighs labels with 0 to 0.5 until two thirds of
    the run and 1 afterwards. `start` = `end` makes a single step.
    """

    key: ClassVar[str] = "linear_then"
    start: float
    end: float
    until: float
    after: float

    def __post_init__(self) -> None:
        """Refuse an end outside the run."""
        _check_order("linear_then", 0.0, self.until)

    def __call__(self, progress: float) -> float:
        """Return the point on the line, or what follows it."""
        if progress >= self.until:
            return self.after
        return self.start + (self.end - self.start) * progress / self.until


@dataclass(frozen=True)
class StepAnneal(Schedule):
    """1 / tau_max, 2 / tau_max, ..., 1 in equal parts of the run until `ends`, 1 afterwards.

    phi = 1 - (T - 1) / tau_max of Annealing-KD (arXiv 2104.07163) for T = tau_max, ..., 1.
    """

    key: ClassVar[str] = "step_anneal"
    tau_max: int = 7
    ends: float = 1.0

    def __post_init__(self) -> None:
        """Refuse less than one step, and an end outside the run."""
        if self.tau_max < 1:
            raise UsageError(f"schedule step_anneal: tau_max is {self.tau_max}, expected 1 or more")
        _check_order("step_anneal", 0.0, self.ends)

    def __call__(self, progress: float) -> float:
        """Return phi."""
        done = int(progress / self.ends * self.tau_max + 1e-9)
        return min(done + 1, self.tau_max) / self.tau_max


def _check_order(name: str, start: float, end: float) -> None:
    if not 0 <= start < end <= 1:
        raise UsageError(
            f"schedule {name}: it runs from {start:g} to {end:g} of the stage, "
            "expected 0 <= start < end <= 1"
        )
