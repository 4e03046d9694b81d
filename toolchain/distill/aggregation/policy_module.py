"""What an RL-KD policy learns and remembers. Imports torch: loaded only when one is built.

Shape letters: K teachers, P rows of logits, F features of a state.
"""

import torch
from torch import Tensor, nn

__all__ = ["PolicyModule"]

_DECAY = 0.95


class PolicyModule(nn.Module):
    """One linear map per teacher, and the running mean of rewards that is their baseline."""

    baseline: Tensor
    observed: Tensor

    def __init__(self, teachers: int, features: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(teachers, features))
        self.bias = nn.Parameter(torch.zeros(teachers))
        self.register_buffer("baseline", torch.zeros((), dtype=torch.float64))
        self.register_buffer("observed", torch.zeros((), dtype=torch.int64))

    def forward(self, state_KPF: Tensor) -> Tensor:
        """Return log odds (K, P)."""
        return (state_KPF.to(self.weight) * self.weight[:, None]).sum(-1) + self.bias[:, None]

    def observe(self, value: float) -> None:
        """Take the mean reward of a step; the first ones count fully, later ones decay."""
        self.observed += 1
        share = max(1 - _DECAY, 1 / int(self.observed))
        self.baseline += share * (value - self.baseline)
