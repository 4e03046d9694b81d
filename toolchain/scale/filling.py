"""Filling a cache: whatever gives captures of batches, written shard by shard.

The writer takes any iterator of captures in the order of its batches: a model that is whole, or one
that is streamed block by block over all of them at once. Rows that are there are not read again,
equal rows are kept once, and a kill loses one shard.
"""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

import numpy as np
import safetensors.torch
import torch

from toolchain.artifact import write_atomic
from toolchain.data.batching import Batch, Rows, collate
from toolchain.distill.capture import Captures
from toolchain.distill.context import Decoder
from toolchain.distill.extract import Request
from toolchain.distill.teachers import Readable
from toolchain.progress import Progress
from toolchain.scale.cached import decoder_name, index_of
from toolchain.scale.knowledge import Lengths
from toolchain.scale.ledger import CacheFolder
from toolchain.scale.shard import Packed, answers_of, keys_of
from toolchain.scale.stream import StreamedModel

__all__ = [
    "SHARD_BYTES",
    "SHARD_ROWS",
    "Missing",
    "Source",
    "at_once",
    "fill",
    "lengths_of",
    "missing_rows",
    "online",
]

Source = Callable[[Iterable[Batch]], Iterator[Captures]]
"""Gives the captures of batches, in their order."""

SHARD_BYTES, SHARD_ROWS = 32 << 20, 4096
"""A shard is finished at either: what a kill may cost, and what is held in memory meanwhile."""


def online(teacher: Readable, requests: frozenset[Request], *, bf16: bool) -> Source:
    """Return a source that runs a teacher batch by batch."""

    def captures(batches: Iterable[Batch]) -> Iterator[Captures]:
        device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        opened = teacher.open(requests, device=device, bf16=bf16)
        try:
            for batch in batches:
                yield opened.captures(batch.to(device), {})
        finally:
            opened.close()

    return captures


def at_once(
    teacher: StreamedModel, requests: frozenset[Request], *, bf16: bool, progress: Progress
) -> Source:
    """Return a source that streams a teacher over all batches, its blocks read once."""

    def captures(batches: Iterable[Batch]) -> Iterator[Captures]:
        device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        opened = teacher.open(requests, device=device, bf16=bf16)
        try:
            yield from opened.captures_of(batches, progress=progress)
        finally:
            opened.close()

    return captures


@dataclass(frozen=True)
class Missing:
    """Rows that a cache lacks, longest first, each once; `names` are those of all rows."""

    numbers: tuple[int, ...]
    names: tuple[bytes, ...]


def missing_rows(folder: CacheFolder, rows: Rows) -> Missing:
    """Return what has still to be read. Damaged shards must have been dropped before."""
    known = set(index_of(folder, check=False)) if folder.exists else set()
    names = keys_of(rows)
    # The longest first: the first batch shows the peak of memory.
    order = np.argsort(-rows.lengths, kind="stable").tolist()
    numbers = []
    for number in order:
        if names[number] not in known:
            known.add(names[number])
            numbers.append(number)
    return Missing(tuple(numbers), tuple(names))


def lengths_of(rows: Rows, numbers: Iterable[int] | None = None) -> Lengths:
    """Return how much there is in some rows, or in all."""
    chosen = list(range(len(rows)) if numbers is None else numbers)
    tokens, answers = rows.lengths[chosen], answers_of(rows)[chosen]
    return Lengths(len(chosen), int(tokens.sum()), int((tokens**2).sum()), int(answers.sum()))


def fill(
    folder: CacheFolder,
    rows: Rows,
    missing: Missing,
    source: Source,
    *,
    batch_size: int,
    progress: Progress,
) -> None:
    """Read what is missing and write it; the folder must be held for writing.

    Raises ResourceError when the disk is full: finished shards stay.
    """
    numbers, lengths, answers = missing.numbers, rows.lengths, answers_of(rows)
    batches = [numbers[i : i + batch_size] for i in range(0, len(numbers), batch_size)]
    keeps = folder.identity().keeps
    packed, done = Packed(keeps), 0
    captured = source(collate(rows, chosen) for chosen in batches)
    for chosen, captures in zip(batches, captured, strict=True):
        _keep_decoder(folder, captures.decoder)
        packed.take(
            captures,
            [missing.names[i] for i in chosen],
            lengths[list(chosen)].tolist(),
            answers[list(chosen)].tolist(),
        )
        done += len(chosen)
        full = packed.bytes >= SHARD_BYTES or packed.rows >= SHARD_ROWS
        if full or done == len(numbers):
            folder.add(packed.written(), rows=packed.rows, tokens=packed.tokens)
            packed = Packed(keeps)
        progress.advance("cache", done, len(numbers))


def _keep_decoder(folder: CacheFolder, decoder: Decoder | None) -> None:
    if decoder is None or any(folder.root.glob("decoder-*.safetensors")):
        return
    tensors = {"weight": decoder.weight_VD, "bias": decoder.bias_V}
    kept = {n: t.detach().float().cpu().contiguous() for n, t in tensors.items() if t is not None}
    data = safetensors.torch.save(kept)
    write_atomic(folder.root / decoder_name(data), data)
