"""Several linear heads that answer with their mean. Imports torch: loaded only when one is built.

Shape letters: D width, C outcomes.
"""

import copy

import torch
from torch import Tensor, nn

__all__ = ["MeanHeads"]


class MeanHeads(nn.Module):
    """Copies of one linear layer, each read and trained by itself; the model gets their mean."""

    def __init__(self, linear: nn.Linear, count: int) -> None:
        super().__init__()
        self.heads = nn.ModuleList(copy.deepcopy(linear) for _ in range(count))

    def linears(self) -> list[nn.Linear]:
        """Return the heads in order."""
        return [head for head in self.heads if isinstance(head, nn.Linear)]

    def forward(self, pooled: Tensor) -> Tensor:
        """(..., D) -> (..., C)."""
        return torch.stack([head(pooled) for head in self.heads]).mean(0)
