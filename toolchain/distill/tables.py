"""Tables of embeddings: a step touches the rows of its batch, and only those get a gradient.

A dense gradient of a table costs more than the rest of a small student's update: for every word of
the vocabulary it is allocated anew, cleared, measured and given back, though a batch has a few
hundred words. Here the rows that have a gradient are laid into a table of zeros that is kept, so
AdamW reads the very numbers it would read otherwise: weights and moments are the same to the bit.

Shape letters: V rows of a table, D width, U rows of a batch.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

__all__ = ["TableAdamW", "gathered", "row_gradients"]

# Below it a dense gradient costs next to nothing.
_SMALL = 4096


@contextmanager
def row_gradients(model: nn.Module) -> Iterator[None]:
    """Give large tables gradients of their batch's rows; not those that are a head's too."""
    parameters = [p for module in model.modules() for p in module.parameters(recurse=False)]
    tables = [
        module
        for module in model.modules()
        if isinstance(module, nn.Embedding)
        and module.num_embeddings > _SMALL
        and sum(module.weight is p for p in parameters) == 1
        and module.max_norm is None
        and not (module.scale_grad_by_freq or module.sparse)
    ]
    for table in tables:
        table.sparse = True
    try:
        yield
    finally:
        for table in tables:
            table.sparse = False


def gathered(gradient: Tensor) -> Tensor:
    """Return a gradient of rows with every row once, summed in the order a dense one is."""
    if gradient.is_coalesced():
        return gradient
    found = gradient._indices().squeeze(0).unique(return_inverse=True)  # type: ignore[no-untyped-call]
    rows_U, place = found
    values = gradient._values()
    sums_UD = values.new_zeros(len(rows_U), values.shape[1]).index_add_(0, place, values)
    return torch.sparse_coo_tensor(
        rows_U.unsqueeze(0), sums_UD, gradient.shape, is_coalesced=True, check_invariants=False
    )


class TableAdamW(torch.optim.AdamW):
    """AdamW that takes gradients of rows too."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._zeros: dict[Tensor, Tensor] = {}

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        """Update everything that has a gradient."""
        used: list[tuple[Tensor, Tensor]] = []
        for table_VD in (p for group in self.param_groups for p in group["params"]):
            if table_VD.grad is not None and table_VD.grad.is_sparse:
                gradient = gathered(table_VD.grad)
                dense_VD = self._zeros.get(table_VD)
                if dense_VD is None:
                    dense_VD = self._zeros[table_VD] = torch.zeros_like(table_VD)
                rows_U = gradient.indices().squeeze(0)
                dense_VD.index_copy_(0, rows_U, gradient.values())
                table_VD.grad = dense_VD
                used.append((table_VD, rows_U))
        loss: float | None = super().step(closure)
        for table_VD, rows_U in used:
            table_VD.grad = None
            self._zeros[table_VD].index_fill_(0, rows_U, 0.0)
        return loss
