"""Clock: what schedules read instead of the run's progress when layers may move on early.

Terms with the same clock share it, so that what follows the layers starts as soon as they are done.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING

from toolchain.errors import UsageError

if TYPE_CHECKING:
    from toolchain.distill.skips import Skips

__all__ = ["Clock"]


@dataclass(frozen=True)
class Clock:
    """Progress that skips what is left of a layer's part once its distance is at most `limit`.

    Layers have equal parts of the run until `ends`, as under the schedule `unlock`. `watched` is
    the method's term whose value for the layer whose turn it is, over the global batch of a step,
    is the distance; of several teachers the largest counts.
    """

    watched: str
    limit: float
    ends: float = 1.0

    def __post_init__(self) -> None:
        """Refuse an end outside the run, and what no distance can fall to."""
        if self.limit < 0:
            raise UsageError(
                f"clock: the layer moves on at a distance of {self.limit:g}, and none is below 0",
                "a threshold is a cosine of up to 1",
            )
        if not 0 < self.ends <= 1:
            raise UsageError(f"clock: it ends at {self.ends:g} of the stage, expected 0 to 1")

    def module(self, layers: int) -> "Skips":
        """Return what remembers how many steps were skipped."""
        from toolchain.distill.skips import Skips

        return Skips(layers, self.limit, self.ends)
