"""How fast an interpolated target moves: by the loss, never slower than a straight line."""

import math

import torch
from torch import Tensor, nn

from toolchain.distill.context import Moment

__all__ = ["Pace"]

_EPSILON = 1e-15


class Pace(nn.Module):
    """The share t of the teacher in the target, from `start` to `end`, never falling.

    After each step t grows by alpha sigmoid(m) (1 - t), m being a running mean of the relative
    drop of the loss; a line from start to end over the stage is its lower bound. All values are
    buffers, so that a resumed run goes on with the same t.
    """

    t: Tensor
    grown: Tensor
    drop: Tensor
    previous: Tensor
    step: Tensor

    def __init__(self, start: float, end: float, alpha: float, momentum: float) -> None:
        super().__init__()
        self.start, self.end, self.alpha, self.momentum = start, end, alpha, momentum
        for name, value in (("t", start), ("grown", start), ("drop", 0.0), ("previous", 0.0)):
            self.register_buffer(name, torch.tensor(value, dtype=torch.float64))
        self.register_buffer("step", torch.tensor(-1))

    def at(self, moment: Moment) -> float:
        """Return t for this step: the same however often it is asked, in the backward pass too."""
        if int(self.step) != moment.step:
            line = self.start + (self.end - self.start) * moment.progress
            self.t.fill_(min(self.end, max(line, float(self.grown))))
            self.step.fill_(moment.step)
        return float(self.t)

    def observe(self, value: float) -> None:
        """Take the loss of the step. A zero is that of a step in which the term was left out."""
        if value <= 0:
            return
        previous = float(self.previous)
        if previous:
            change = (previous - value) / (previous + _EPSILON)
            self.drop.fill_(self.momentum * float(self.drop) + (1 - self.momentum) * change)
            t = float(self.t)
            self.grown.fill_(t + self.alpha * _sigmoid(float(self.drop)) * (1 - t))
        self.previous.fill_(value)


def _sigmoid(x: float) -> float:
    return 0.5 * (1 + math.tanh(x / 2))
