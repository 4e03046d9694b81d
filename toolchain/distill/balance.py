"""Balance: terms of different scale made comparable by their own first values."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

__all__ = ["Balance"]

_STEPS = 50


class Balance(nn.Module):
    """Divides each term by the mean of its first 50 values, constant afterwards.

    Methods live on scales from 1e-3 to 1e2 (methods.md section 5, rule 5). The means are global
    over ranks and saved with the run; a term that has been zero so far is left as it is.
    """

    sums: Tensor
    steps: Tensor

    def __init__(self, terms: int) -> None:
        super().__init__()
        self.register_buffer("sums", torch.zeros(terms, dtype=torch.float64))
        self.register_buffer("steps", torch.zeros((), dtype=torch.int64))

    def observe(self, values: Sequence[float]) -> None:
        """Take the terms' values of one step."""
        if int(self.steps) < _STEPS:
            self.sums += torch.tensor(values, dtype=torch.float64, device=self.sums.device).abs()
            self.steps += 1

    def scales(self) -> list[float]:
        """Return the factor of each term; 1 before anything was observed."""
        means = (self.sums / self.steps.clamp(min=1)).tolist()
        return [1.0 / mean if mean > 0 else 1.0 for mean in means]
