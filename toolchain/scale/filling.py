"""Filling a cache: whatever gives captures of batches, written shard by shard.

The writer takes any iterator of captures in the order of its batches: a model that is whole, or one
that is streamed block by block over a chunk of them. Rows that are there are not read again, equal
rows are kept once, and a kill loses one shard, or one chunk.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
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
from toolchain.spec import ModelSpec

__all__ = [
    "CHUNK_BYTES",
    "CHUNK_BYTES_GPU",
    "SHARD_BYTES",
    "SHARD_ROWS",
    "Missing",
    "Source",
    "at_once",
    "chunk_tokens",
    "fill",
    "lengths_of",
    "missing_rows",
    "online",
]

Source = Callable[[Iterable[Batch]], Iterator[Captures]]
"""Gives the captures of batches, in their order."""

SHARD_BYTES, SHARD_ROWS = 32 << 20, 4096
"""A shard is finished at either: what a kill may cost, and what is held in memory meanwhile."""

CHUNK_BYTES, CHUNK_BYTES_GPU = 1 << 30, 8 << 30
"""States between two blocks of the rows that are streamed at once. All blocks are read once for
them, so they must be many beside that; on a CPU these are hours of work for a large model."""


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
    """Return a source that streams a teacher over the batches of a chunk, its blocks read once."""

    def captures(batches: Iterable[Batch]) -> Iterator[Captures]:
        device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        opened = teacher.open(requests, device=device, bf16=bf16)
        try:
            yield from opened.captures_of(batches, progress=progress)
        finally:
            opened.close()

    return captures


def chunk_tokens(spec: ModelSpec, requests: frozenset[Request]) -> int:
    """Return the tokens of a chunk: their states and what is captured of blocks fill it."""
    widths = {"emb": spec.width, "hidden": spec.width, "q": spec.query_width}
    widths |= {"k": spec.key_width, "v": spec.key_width}
    features = spec.width + sum(widths.get(request.kind, 0) for request in requests)
    size = CHUNK_BYTES_GPU if torch.cuda.is_available() else CHUNK_BYTES
    return max(1, size // (4 * features))


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
    at_once: int | None = None,
) -> None:
    """Read what is missing and write it; the folder must be held for writing.

    The source is asked for rows of `at_once` tokens at a time, and they are written before it is
    asked again; None asks for all. Raises ResourceError when the disk is full: finished shards
    stay.
    """
    numbers, lengths, answers = missing.numbers, rows.lengths, answers_of(rows)
    batches = [numbers[i : i + batch_size] for i in range(0, len(numbers), batch_size)]
    keeps = folder.identity().keeps
    packed, done = Packed(keeps), 0
    for chunk in _chunks(batches, [int(lengths[list(b)].sum()) for b in batches], at_once):
        captured = source(collate(rows, chosen) for chosen in chunk)
        for number, (chosen, captures) in enumerate(zip(chunk, captured, strict=True), 1):
            _keep_decoder(folder, captures.decoder)
            packed.take(
                captures,
                [missing.names[i] for i in chosen],
                lengths[list(chosen)].tolist(),
                answers[list(chosen)].tolist(),
            )
            done += len(chosen)
            full = packed.bytes >= SHARD_BYTES or packed.rows >= SHARD_ROWS
            if full or number == len(chunk):
                folder.add(packed.written(), rows=packed.rows, tokens=packed.tokens)
                packed = Packed(keeps)
            progress.advance("cache", done, len(numbers))


def _chunks(
    batches: Sequence[tuple[int, ...]], tokens: Sequence[int], most: int | None
) -> Iterator[Sequence[tuple[int, ...]]]:
    """Yield batches that go together, up to `most` tokens, or one batch of more."""
    first, size = 0, 0
    for number, count in enumerate(tokens):
        if most is not None and size and size + count > most:
            yield batches[first:number]
            first, size = number, 0
        size += count
    yield batches[first:]


def _keep_decoder(folder: CacheFolder, decoder: Decoder | None) -> None:
    if decoder is None or any(folder.root.glob("decoder-*.safetensors")):
        return
    tensors = {"weight": decoder.weight_VD, "bias": decoder.bias_V}
    kept = {n: t.detach().float().cpu().contiguous() for n, t in tensors.items() if t is not None}
    data = safetensors.torch.save(kept)
    write_atomic(folder.root / decoder_name(data), data)
