"""Rows to padded batches: tokenised once, bucketed by length, in an order that can be resumed.

Batches of similar length waste little padding (facts.md section 3: 93 -> 208 samples/s). The order
depends on (seed, epoch) alone, so a run that stopped in the middle of an epoch continues with the
very batch it would have seen.

Shape letters: B batch, N tokens, R rows.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from transformers import PreTrainedTokenizerFast

__all__ = ["Batch", "Rows", "collate", "epoch_batches", "in_order", "tokenize"]

Ids = NDArray[np.int64]

# Rows sorted by length together: wide enough for even lengths, narrow enough to stay shuffled.
_POOL_BATCHES = 50


@dataclass(frozen=True, kw_only=True)
class Rows:
    """Tokenised rows: one mapping of 1-D arrays per row, labels (R,), rows cut to the limit."""

    features: Sequence[Mapping[str, Ids]]
    labels: Ids
    pad_id: int
    truncated: int

    def __len__(self) -> int:
        """Return the number of rows."""
        return len(self.features)

    @property
    def lengths(self) -> Ids:
        """Tokens per row, (R,)."""
        return np.array([len(row["input_ids"]) for row in self.features], dtype=np.int64)


@dataclass(frozen=True)
class Batch:
    """Padded rows. `inputs` go to the model (B, N); `rows` are their numbers in the data."""

    inputs: Mapping[str, Tensor]
    labels_B: Tensor
    rows: tuple[int, ...]

    @property
    def mask_BN(self) -> Tensor:
        """1 at real tokens."""
        return self.inputs["attention_mask"]

    def to(self, device: torch.device) -> "Batch":
        """Return the batch on a device."""
        inputs = {name: tensor.to(device) for name, tensor in self.inputs.items()}
        return Batch(inputs, self.labels_B.to(device), self.rows)


def tokenize(
    tokenizer: PreTrainedTokenizerFast,
    texts: Sequence[str],
    texts_b: Sequence[str] | None,
    labels: Sequence[int],
    *,
    max_tokens: int,
) -> Rows:
    """Tokenise single texts or pairs; longer rows lose their end (of the longer text)."""
    encoded = tokenizer(
        list(texts),
        list(texts_b) if texts_b is not None else None,
        add_special_tokens=True,
        padding=False,
        truncation="longest_first",
        max_length=max_tokens,
        return_attention_mask=True,
        verbose=False,
    )
    names = list(encoded.keys())
    columns = [encoded[name] for name in names]
    features = [
        {name: np.asarray(values, dtype=np.int64) for name, values in zip(names, row, strict=True)}
        for row in zip(*columns, strict=True)
    ]
    cut = sum(1 for encoding in encoded.encodings or () if encoding.overflowing)
    return Rows(
        features=features,
        labels=np.asarray(labels, dtype=np.int64),
        pad_id=int(tokenizer.pad_token_id or 0),
        truncated=cut,
    )


def collate(rows: Rows, chosen: Sequence[int]) -> Batch:
    """Pad the chosen rows on the right to their longest."""
    picked = [rows.features[i] for i in chosen]
    width = max(len(row["input_ids"]) for row in picked)
    inputs = {}
    for name in picked[0]:
        fill = rows.pad_id if name == "input_ids" else 0
        padded = np.full((len(picked), width), fill, dtype=np.int64)
        for i, row in enumerate(picked):
            padded[i, : len(row[name])] = row[name]
        inputs[name] = torch.from_numpy(padded)
    return Batch(inputs, torch.from_numpy(rows.labels[list(chosen)]), tuple(chosen))


def epoch_batches(lengths: Ids, batch_size: int, *, seed: int, epoch: int) -> list[list[int]]:
    """Return the row numbers of every batch of an epoch, in order.

    Rows are shuffled, sorted by length within pools, cut into batches, and the batches shuffled.
    """
    generator = np.random.default_rng([seed, epoch])
    order = generator.permutation(len(lengths))
    pool = batch_size * _POOL_BATCHES
    batches = []
    for start in range(0, len(order), pool):
        part = order[start : start + pool]
        part = part[np.argsort(lengths[part], kind="stable")]
        batches += [part[i : i + batch_size].tolist() for i in range(0, len(part), batch_size)]
    return [batches[i] for i in generator.permutation(len(batches))]


def in_order(rows: Rows, batch_size: int) -> Iterator[Batch]:
    """Yield every row once, longest first, so that the first batch shows the peak memory."""
    order = np.argsort(-rows.lengths, kind="stable")
    for start in range(0, len(order), batch_size):
        yield collate(rows, order[start : start + batch_size].tolist())
