"""How many steps layers have saved by reaching a threshold early."""

import math

import torch
from torch import Tensor, nn

from toolchain.distill.context import Moment

__all__ = ["Skips"]


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
