"""How many steps layers have saved by reaching a threshold early."""

import math

import torch
from torch import Tensor, nn

from toolchain.distill.context import Moment
from toolchain.distill.term import BoundTerm

__all__ = ["Skips", "clock_key", "is_watched", "turn_name"]


class Skips(nn.Module):
    """The state of a clock: whole steps, in a buffer, so that a resumed run moves on alike."""

    skipped: Tensor

    def __init__(self, layers: int, limit: float, ends: float) -> None:
        super().__init__()
        self.layers, self.limit, self.ends = layers, limit, ends
        self.register_buffer("skipped", torch.tensor(0))
        self._moment = Moment()

    def at(self, moment: Moment) -> float:
        """Return the progress that schedules read in this step."""
        self._moment = moment
        return min(1.0, (moment.step + int(self.skipped)) / moment.steps)

    def turn(self, progress: float) -> int:
        """Return the layer whose turn it is, from 0; their number when all have had theirs."""
        return min(self.layers, int(progress / self.ends * self.layers + 1e-9))

    def observe(self, value: float) -> None:
        """Take the distance of the layer whose turn it is; close enough, the next one is next."""
        turn, steps = self.turn(self.at(self._moment)), self._moment.steps
        if turn >= self.layers or value > self.limit:
            return
        start = math.ceil((turn + 1) * self.ends / self.layers * steps - 1e-9)
        following = self._moment.step + 1 + int(self.skipped)
        self.skipped += max(0, start - following)


def clock_key(bound: BoundTerm) -> str:
    """Return the name of the state of a term's clock: a method has one."""
    assert bound.term.clock is not None
    method = bound.term.name.rpartition("/")[0].replace("/", "_").replace(".", "_")
    return f"{method}_{bound.term.clock.watched}_clock"


def is_watched(bound: BoundTerm) -> bool:
    """Return whether the term is the one its clock watches."""
    clock = bound.term.clock
    return clock is not None and bound.term.name.rpartition("/")[2] == clock.watched


def turn_name(bound: BoundTerm) -> str:
    """Return the name of the watched term's value for the layer whose turn it is."""
    return f"{bound.name}/turn"
