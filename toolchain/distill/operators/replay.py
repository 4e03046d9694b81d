"""The rows a student wrote, and how often it learns from its own: saved with the run.

Shape letters: R rows that are kept, B rows of a batch, N tokens.
"""

from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING

import torch
from torch import Generator, Tensor, nn

from toolchain.distill.ranks import place

if TYPE_CHECKING:
    from toolchain.data.batching import Batch

__all__ = ["Replay"]

# As in every batch: nothing is supervised here.
_IGNORED = -100

_ROWS = ("ids_RN", "labels_RN", "lengths_R", "numbers_R")


class Replay(nn.Module):
    """The newest `capacity` rows, and phi, which grows when the loss on dev does.

    All of it are buffers on the CPU: a resumed run draws the same rows. `numbers_R` are the rows'
    numbers in the data, `reference` the loss that the next one is compared with.
    """

    ids_RN: Tensor
    labels_RN: Tensor
    lengths_R: Tensor
    numbers_R: Tensor
    phi: Tensor
    reference: Tensor

    def __init__(self, share: float, rise: float, margin: float, capacity: int) -> None:
        super().__init__()
        self.rise, self.margin, self.capacity = rise, margin, capacity
        for name in _ROWS:
            shape = (0, 0) if name.endswith("N") else (0,)
            self.register_buffer(name, torch.zeros(shape, dtype=torch.int32))
        self.register_buffer("phi", torch.tensor(share, dtype=torch.float64))
        self.register_buffer("reference", torch.tensor(float("nan"), dtype=torch.float64))

    @property
    def full(self) -> bool:
        """Whether as many rows are kept as may be."""
        return len(self.ids_RN) >= self.capacity

    def judged(self, loss: float) -> None:
        """Take the loss on dev: the first is the reference, one that is higher raises phi."""
        if bool(self.reference.isnan()):
            self.reference.fill_(loss)
        elif loss >= float(self.reference) + self.margin:
            self.phi.fill_(min(1.0, float(self.phi) + self.rise))
            self.reference.fill_(loss)

    def keep(self, batch: "Batch") -> None:
        """Put a batch's rows, those of all ranks, behind the others; the oldest make room.

        They stand as in the global batch, of which the ranks have rows in turn; a rank for which
        none was left has one of another's.
        """
        parts = _of_all_ranks(batch)
        turns = torch.cat([torch.arange(len(part["ids_RN"])) for part in parts])
        order = turns.argsort(stable=True)
        numbers = torch.cat([part["numbers_R"] for part in parts])[order].tolist()
        order = order[[numbers.index(number) for number in dict.fromkeys(numbers)]]
        width = max(rows.shape[1] for rows in (self.ids_RN, *(part["ids_RN"] for part in parts)))
        for name in _ROWS:
            fill = _IGNORED if name == "labels_RN" else 0
            new = torch.cat([_wide(part[name], width, fill) for part in parts])[order]
            kept = torch.cat([_wide(getattr(self, name), width, fill), new])
            setattr(self, name, kept[-self.capacity :])

    def drawn(self, batch: "Batch", generator: Generator) -> "Batch":
        """Return as many kept rows as the batch has, on its device; each rank its own."""
        rank, ranks = place()
        count, kept = len(batch.rows), len(self.ids_RN)
        order = torch.randperm(kept, generator=generator)
        # More rows than are kept: some come twice.
        order = order.repeat(-(-count * ranks // kept))[rank::ranks][:count]
        lengths_B = self.lengths_R[order]
        width = int(lengths_B.max())
        mask_BN = torch.arange(width) < lengths_B[:, None]
        inputs = {"input_ids": self.ids_RN[order, :width], "attention_mask": mask_BN}
        return replace(
            batch,
            inputs={name: tensor.long() for name, tensor in inputs.items()},
            labels=self.labels_RN[order, :width].long(),
            rows=tuple(self.numbers_R[order].tolist()),
        ).to(batch.labels.device)

    def _load_from_state_dict(
        self, state_dict: Mapping[str, Tensor], prefix: str, *rest: object
    ) -> None:
        # How many rows there are is not known beforehand.
        for name in _ROWS:
            setattr(self, name, torch.empty_like(state_dict[f"{prefix}{name}"]))
        super()._load_from_state_dict(state_dict, prefix, *rest)


def _of_all_ranks(batch: "Batch") -> list[dict[str, Tensor]]:
    own = {
        "ids_RN": batch.inputs["input_ids"],
        "labels_RN": batch.labels,
        "lengths_R": batch.mask_BN.sum(-1),
        "numbers_R": torch.tensor(batch.rows),
    }
    own = {name: tensor.cpu().int() for name, tensor in own.items()}
    _, ranks = place()
    if ranks == 1:
        return [own]
    found: list[dict[str, Tensor]] = [{} for _ in range(ranks)]
    torch.distributed.all_gather_object(found, own)
    return found


def _wide(rows: Tensor, width: int, fill: int) -> Tensor:
    """Return rows (R, N) padded to a width; numbers (R,) as they are."""
    if rows.ndim == 1:
        return rows
    return nn.functional.pad(rows, (0, width - rows.shape[1]), value=fill)
