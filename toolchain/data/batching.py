"""Tokenised rows to padded batches: bucketed by length, in an order that can be resumed.

Batches of similar length waste little padding (facts.md section 3: 93 -> 208 samples/s). The order
depends on (seed, epoch) alone, so a run that stopped in the middle of an epoch continues with the
very batch it would have seen.

Shape letters: B batch, N tokens, R rows, C classes.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from toolchain.data.masking import IGNORED
from toolchain.data.tokenizing import Rows, tokenize

__all__ = ["Batch", "Rows", "collate", "epoch_batches", "in_order", "tokenize"]

Ids = NDArray[np.int64]
# Rows sorted by length together: wide enough for even lengths, narrow enough to stay shuffled.
_POOL_BATCHES = 50


@dataclass(frozen=True)
class Batch:
    """Padded rows. `inputs` go to the model (B, N); `rows` are their numbers in the data.

    `labels` are (B,) int64 for classes, (B, C) float32 for multi-label, (B,) float32 for scores,
    (B, 2) int64, begin and end, for questions, and (B, N) int64 for tagging and language models,
    -100 where nothing is supervised. Those of a causal language model are shifted: logits[:, n]
    predict labels[:, n].
    """

    inputs: Mapping[str, Tensor]
    labels: Tensor
    rows: tuple[int, ...]

    @property
    def mask_BN(self) -> Tensor:
        """1 at real tokens."""
        return self.inputs["attention_mask"]

    def to(self, device: torch.device) -> "Batch":
        """Return the batch on a device."""
        inputs = {name: tensor.to(device) for name, tensor in self.inputs.items()}
        return Batch(inputs, self.labels.to(device), self.rows)


def collate(rows: Rows, chosen: Sequence[int], *, step: int | None = None) -> Batch:
    """Pad the chosen rows on the right to their longest.

    A masked language model's tokens are hidden anew at every `step`; None hides those of
    evaluation, which are always the same.
    """
    picked: list[Mapping[str, Ids]] = [rows.features[i] for i in chosen]
    token_labels: list[Ids] | None = None
    if rows.masking is not None:
        masking = rows.masking
        made = [
            masking.apply(feature["input_ids"], row=row, step=step)
            for feature, row in zip(picked, chosen, strict=True)
        ]
        picked = [
            {**feature, "input_ids": ids} for feature, (ids, _) in zip(picked, made, strict=True)
        ]
        token_labels = [labels for _, labels in made]
    elif isinstance(rows.labels, tuple):
        token_labels = [rows.labels[i] for i in chosen]
    inputs = {
        name: _padded([row[name] for row in picked], rows.pad_id if name == "input_ids" else 0)
        for name in picked[0]
    }
    if token_labels is not None:
        labels = _padded(token_labels, IGNORED)
    else:
        assert isinstance(rows.labels, np.ndarray)
        labels = torch.from_numpy(rows.labels[list(chosen)])
    return Batch(inputs, labels, tuple(chosen))


def _padded(arrays: Sequence[Ids], fill: int) -> Tensor:
    padded = np.full((len(arrays), max(map(len, arrays))), fill, dtype=np.int64)
    for i, array in enumerate(arrays):
        padded[i, : len(array)] = array
    return torch.from_numpy(padded)


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
