"""What pairs of layers cost over the global batch: matchings that choose by distance read it."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from toolchain.lazy import lazy

if TYPE_CHECKING:
    import torch
    from torch import Tensor
else:
    torch = lazy("torch")

__all__ = ["summed_costs"]


def summed_costs(numerators: "Sequence[Tensor]") -> list[float]:
    """Return each pair's rows (R,) added up over all rows and ranks, without a gradient.

    Ranks that choose by their own rows alone would choose different layers.
    """
    costs = torch.stack([rows.detach().sum() for rows in numerators]).double()
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        torch.distributed.all_reduce(costs)
    found: list[float] = costs.tolist()
    return found
