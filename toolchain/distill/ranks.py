"""Rows of all ranks beside each other, for terms that compare the rows of a batch.

Each rank computes such a term over the global batch and counts its own rows of it, so that the
ranks' values, and after the sum of their gradients those too, add up to the term of one process.

Shape letters: B batch, N tokens, P rows of logits; R ranks.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from toolchain.distill.context import Context

__all__ = [
    "Beside", "beside", "gathered", "most", "of_all", "own_part", "place", "summed", "whole_heads",
]  # fmt: skip


def place() -> tuple[int, int]:
    """Return this rank's number, and how many there are."""
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        return torch.distributed.get_rank(), torch.distributed.get_world_size()
    return 0, 1


@dataclass(frozen=True)
class Beside:
    """The global batch: its context, and which rows of it are this rank's."""

    context: Context
    sequences: slice
    logits: slice


def beside(context: Context) -> Beside | None:
    """Return a micro-batch among those of all ranks; None for a process by itself."""
    rank, ranks = place()
    if ranks == 1:
        return None
    sizes = _all([context.mask_BN.shape[0], context.rows], context.mask_BN.device)
    (b, p), (first_b, first_p) = (x.tolist() for x in (sizes[rank], sizes[:rank].sum(0)))
    sample_P = context.sample_P
    whole = replace(
        context,
        mask_BN=gathered(context.mask_BN),
        labels_P=None if context.labels_P is None else gathered(context.labels_P),
        sample_P=None if sample_P is None else gathered(sample_P + first_b),
    )
    return Beside(whole, slice(first_b, first_b + b), slice(first_p, first_p + p))


def gathered(values: Tensor) -> Tensor:
    """Return the rows of all ranks, padded with zeros behind in every other axis.

    The gradient of a row is what all ranks have for it.
    """
    found: Tensor = _Gather.apply(values)  # type: ignore[no-untyped-call]
    return found


def of_all(inputs: Mapping[str, Tensor], padding: int) -> dict[str, Tensor]:
    """Return what a model reads of all ranks' rows, (B, N) each; `padding` is the token of it."""
    return {
        # Some models count positions, or look for the last token, by what is padding.
        name: gathered(ids - padding) + padding if name == "input_ids" else gathered(ids)
        for name, ids in inputs.items()
    }


def own_part(ids_BN: Tensor) -> tuple[slice, slice]:
    """Return which rows and tokens are this rank's among those of all."""
    counts = gathered(ids_BN.new_tensor([ids_BN.shape[0]])).tolist()
    first = sum(counts[: place()[0]])
    return slice(first, first + ids_BN.shape[0]), slice(ids_BN.shape[1])


def whole_heads(values: Tensor) -> Tensor:
    """Return queries, keys or values of all ranks' heads: features (B, N, D), or (B, N, H, K)."""
    pieces = [torch.empty_like(values) for _ in range(place()[1])]
    torch.distributed.all_gather(pieces, values.contiguous())
    return torch.cat(pieces, dim=2)


def summed(local: Mapping[str, float]) -> dict[str, float]:
    """Return values summed over ranks."""
    return _reduced(local, torch.distributed.ReduceOp.SUM)


def most(local: Mapping[str, float]) -> dict[str, float]:
    """Return the largest of all ranks' values."""
    return _reduced(local, torch.distributed.ReduceOp.MAX)


def _reduced(local: Mapping[str, float], how: Any) -> dict[str, float]:
    if place()[1] == 1 or not local:
        return dict(local)
    device = torch.device("cuda" if torch.distributed.get_backend() == "nccl" else "cpu")
    counts = torch.tensor(list(local.values()), dtype=torch.float64, device=device)
    torch.distributed.all_reduce(counts, op=how)
    return dict(zip(local, counts.tolist(), strict=True))


def _all(numbers: list[int], device: torch.device) -> Any:
    """Return every rank's numbers, (R, n), as an array."""
    own = torch.tensor(numbers, device=device)
    pieces = [torch.empty_like(own) for _ in range(place()[1])]
    torch.distributed.all_gather(pieces, own)
    return torch.stack(pieces).cpu().numpy()


class _Gather(torch.autograd.Function):
    """Concatenates ranks' rows; sums their gradients back."""

    @staticmethod
    def forward(ctx: Any, values: Tensor) -> Tensor:
        rank = place()[0]
        shapes = _all(list(values.shape), values.device)
        widest = shapes.max(0).tolist()
        own = values.new_zeros(widest)
        own[tuple(slice(size) for size in values.shape)] = values
        pieces = [torch.empty_like(own) for _ in shapes]
        torch.distributed.all_gather(pieces, own)
        counts = shapes[:, 0].tolist()
        ctx.first, ctx.shape = sum(counts[:rank]), values.shape
        return torch.cat([piece[:count] for piece, count in zip(pieces, counts, strict=True)])

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        whole = gradient.contiguous().clone()
        torch.distributed.all_reduce(whole)
        first, shape = ctx.first, ctx.shape
        rest = tuple(slice(size) for size in shape[1:])
        return whole[(slice(first, first + shape[0]), *rest)]
