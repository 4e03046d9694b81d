"""Outcomes drawn from a teacher's distribution: what a cache keeps of logits to estimate a KL.

Anshumann et al. 2025 ("Sparse Logit Sampling", arXiv 2503.16870): a loss against drawn outcomes
has the expectation of the loss against all of them; one against the largest, renormalised, has not.
Drawn from the distribution itself, at the temperature of the term, every draw weighs the same, so
that ids are all there is to keep; repeats are weights. One draw falls into each of K equal parts of
the cumulated distribution: every outcome is expected as often as with independent draws, and its
number varies less.

Shape letters: P rows of logits, C outcomes, K draws, T temperatures.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from toolchain.scale.knowledge import Keep

__all__ = ["drawn", "stored_ids"]

# Cumulated probabilities that are alive together: 2^22 of fp64 are 32 MiB.
_PIECE = 1 << 22


def drawn(
    logits_PC: Tensor, keep: Keep, keys: Sequence[bytes], answers: Sequence[int]
) -> dict[str, Tensor]:
    """Return drawn ids (P, T K) and the distribution's entropy (P, T), by their names in a shard.

    Sequences have `answers` rows of logits each. What is drawn depends on a sequence's key alone:
    not on the batch it is in, nor on which process draws.
    """
    places_PTK = torch.cat([_places(k, n, keep) for k, n in zip(keys, answers, strict=True)])
    rows = max(1, _PIECE // logits_PC.shape[-1])
    ids, entropies = [], []
    pieces = zip(torch.split(logits_PC, rows), torch.split(places_PTK, rows), strict=True)
    for logits, places in pieces:
        own_ids, own = [], []
        for t, tau in enumerate(keep.taus):
            p_PC = (logits.float() / tau).softmax(-1)
            own.append(torch.special.entr(p_PC).sum(-1).cpu())
            ends_PC = p_PC.double().cumsum(-1)
            wanted_PK = places[:, t].to(ends_PC.device) * ends_PC[:, -1:]
            # The first outcome that ends behind the place: none without probability.
            found_PK = torch.searchsorted(ends_PC, wanted_PK, right=True)
            own_ids.append(found_PK.clamp(max=logits.shape[-1] - 1).cpu())
        ids.append(torch.cat(own_ids, dim=-1))
        entropies.append(torch.stack(own, dim=-1))
    return {
        f"{keep.name}.ids": stored_ids(torch.cat(ids), keep),
        f"{keep.name}.entropy": torch.cat(entropies),
    }


def _places(key: bytes, answers: int, keep: Keep) -> Tensor:
    """Return one place in each of K equal parts of [0, 1), (answers, T, K)."""
    seed = int.from_bytes(key[:8], "little") >> 1
    generator = torch.Generator().manual_seed(seed)
    shape = (answers, len(keep.taus), keep.width)
    within = torch.rand(shape, generator=generator, dtype=torch.float64)
    return (torch.arange(keep.width) + within) / keep.width


def stored_ids(ids: Tensor, keep: Keep) -> Tensor:
    """Return ids of outcomes as shards hold them: in two bytes where they fit, without a sign."""
    if not keep.narrow_ids:
        return ids.int()
    # torch can hardly compute with two bytes that have no sign.
    return torch.where(ids < 1 << 15, ids, ids - (1 << 16)).short()
