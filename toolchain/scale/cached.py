"""A teacher that is read from disk: the tensors its terms ask for, and no weights.

Rows are found by what the teacher read, so their order and number do not matter, and a batch that
is not in the cache cannot be mistaken for one that is.

Shape letters: B batch, N tokens, D width, H heads, P rows of logits, K kept outcomes.
"""

import functools
import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import safetensors.torch
import torch
from torch import Tensor

from toolchain.data.batching import Batch, Rows
from toolchain.data.masking import IGNORED
from toolchain.distill.capture import Attention, Captures
from toolchain.distill.context import Decoder
from toolchain.distill.extract import Request
from toolchain.distill.operators.operator import Patches
from toolchain.errors import IntegrityError, StepError, UsageError
from toolchain.scale.knowledge import Keep
from toolchain.scale.ledger import CacheFolder
from toolchain.scale.shard import ShardFile, key_of, keys_of
from toolchain.spec import LANGUAGE, ModelSpec

__all__ = [
    "CachedModel",
    "CachedTeacher",
    "check_holds",
    "decoder_name",
    "index_of",
    "read_decoder",
]

Place = tuple[Path, int]
Found = tuple[ShardFile, int]
"""A row of a shard, which lies somewhere or is open."""

# Every open file is mapped, and a process may not have many.
_OPEN = 256


@dataclass(frozen=True, kw_only=True)
class CachedModel:
    """A teacher whose knowledge lies in the folder of a cache."""

    folder: Path
    spec: ModelSpec
    rows: Rows | None = None

    def reading(self, rows: Rows | None) -> "CachedModel":
        """Return it with rows of its own."""
        return replace(self, rows=rows)

    def open(
        self,
        requests: frozenset[Request],
        *,
        device: torch.device,
        bf16: bool,  # noqa: ARG002 - decided when the cache was made
    ) -> "CachedTeacher":
        """Check every shard and return the teacher. Raises IntegrityError naming a damaged one."""
        folder = CacheFolder(self.folder)
        return CachedTeacher(folder, self.spec, self.rows, requests, device=device)


def index_of(folder: CacheFolder, *, check: bool) -> dict[bytes, Place]:
    """Return where each row lies, by its name."""
    places: dict[bytes, Place] = {}
    for shard in folder.shards():
        if check:
            folder.check(shard)
        path = folder.path(shard)
        places |= {key: (path, number) for number, key in enumerate(ShardFile(path).keys)}
    return places


def check_holds(folder: Path, rows: Rows) -> None:
    """Raise UsageError unless every row is in the cache; IntegrityError for a damaged shard."""
    known = index_of(CacheFolder(folder), check=True)
    missing = [i for i, key in enumerate(keys_of(rows)) if key not in known]
    if missing:
        first = ", ".join(map(str, missing[:8]))
        raise UsageError(
            f"cache {folder}: it lacks {len(missing):,} of {len(rows):,} rows (rows {first}"
            f"{' ...' if len(missing) > 8 else ''}, counted from 0)",
            "run toolchain cache again with the same arguments on these data: it adds what is "
            "missing",
        )


class CachedTeacher:
    """Gives what was captured of each row when the cache was filled."""

    def __init__(
        self,
        folder: CacheFolder,
        spec: ModelSpec,
        rows: Rows | None,
        requests: frozenset[Request],
        *,
        device: torch.device,
    ) -> None:
        self.spec, self.rows = spec, rows
        self._root, self._device = folder.root, device
        self._keeps = tuple(k for k in folder.identity().keeps if _serves(k, requests))
        self._places = index_of(folder, check=True)
        self._opened = functools.lru_cache(_OPEN)(ShardFile)
        self._decoder = read_decoder(folder.root)

    def captures(self, batch: Batch, patches: Patches) -> Captures:
        """Return what is kept of the batch. Raises StepError for rows that are not there."""
        if patches:
            raise StepError(
                f"cache {self._root}: activations of a teacher on disk cannot be replaced",
                "use placement.teacher=whole",
            )
        places = self._found(batch)
        tensors: dict[Request, Tensor] = {}
        normed: dict[Request, Tensor] = {}
        scores: dict[int, Tensor] = {}
        for keep in self._keeps:
            values = _gathered(keep, places).to(self._device)
            match keep.kind:
                case "scores":
                    scores[keep.layer] = values
                case "q_normed" | "k_normed":
                    split = values.view(*values.shape[:2], -1, self.spec.head_width)
                    normed[Request("q" if keep.kind == "q_normed" else "k", keep.layer)] = split
                case "largest" | "sampled" | "logits":
                    tensors[Request("logits")] = values
                case kind:
                    tensors[Request(kind, keep.layer)] = values
        attention = self._attention(places, normed)
        return Captures(tensors, self.spec.heads, attention, self._decoder, scores)

    def close(self) -> None:
        """Let go of the shards."""
        self._places.clear()
        self._opened.cache_clear()

    def _found(self, batch: Batch) -> list[Found]:
        lengths = batch.mask_BN.sum(-1).tolist()
        inputs = {name: tensor.cpu().numpy() for name, tensor in batch.inputs.items()}
        by_token = self.spec.task == "tag" or self.spec.task in LANGUAGE
        supervised = (batch.labels != IGNORED).cpu().numpy() if by_token else None
        found = []
        for b, n in enumerate(lengths):
            own = {name: array[b, :n] for name, array in inputs.items()}
            key = key_of(own, None if supervised is None else supervised[b, :n])
            place = self._places.get(key)
            if place is None:
                raise StepError(
                    f"cache {self._root}: it holds nothing of row {batch.rows[b]}",
                    "run toolchain cache again on these data",
                )
            path, row = place
            found.append((self._opened(path), row))
        return found

    def _attention(self, places: Sequence[Found], normed: Mapping[Request, Tensor]) -> Attention:
        longest, row = max(places, key=lambda place: place[0].length(place[1]))
        tables, n = longest.tables(), longest.length(row)
        rotary = None
        if "cos" in tables:
            cos, sin = (tables[name][None, :n].to(self._device) for name in ("cos", "sin"))
            rotary = (cos, sin)
        bias = tables["bias"][:n, :n].to(self._device) if "bias" in tables else None
        return Attention(normed=normed, rotary=rotary, bias_NNH=bias)


def decoder_name(data: bytes) -> str:
    """Return what the file of the last layer is called: by its digest."""
    return f"decoder-{hashlib.sha256(data).hexdigest()[:32]}.safetensors"


def read_decoder(root: Path) -> Decoder | None:
    """Return the last layer of the teacher's head, which is there where its states are kept.

    Raises IntegrityError for a damaged file.
    """
    path = next(iter(sorted(root.glob("decoder-*.safetensors"))), None)
    if path is None:
        return None
    data = path.read_bytes()
    if decoder_name(data) != path.name:
        raise IntegrityError(
            f"{path}: not the file whose digest it is named by",
            "remove the folder and make the cache anew",
        )
    tensors = safetensors.torch.load(data)
    return Decoder(tensors["weight"], tensors.get("bias"))


def _serves(keep: Keep, requests: frozenset[Request]) -> bool:
    """Whether a tensor is needed for what is asked; logits are always given, as by any teacher."""
    layer = keep.layer
    match keep.kind:
        case "logits" | "largest" | "sampled":
            return True
        case "scores":
            return {Request("q", layer), Request("k", layer)} <= requests
        case "q_normed":
            return Request("q", layer) in requests
        case "k_normed":
            return Request("k", layer) in requests
        case kind:
            return Request(kind, layer) in requests


def _gathered(keep: Keep, places: Sequence[Found]) -> Tensor:
    """Return one tensor of a batch, padded with zeros."""
    if keep.kind == "largest":
        return _largest(keep, places)
    if keep.kind == "sampled":
        return _sampled(keep, places)
    width = keep.width if keep.unit == "pair" else 1
    parts = [file.part(keep.name, keep.unit, row, width) for file, row in places]
    if keep.precision == "int8":
        scales = [file.part(f"{keep.name}.scale", keep.unit, row) for file, row in places]
        parts = [part * scale[:, None] for part, scale in zip(parts, scales, strict=True)]
    if keep.unit in ("row", "answer"):
        return torch.cat(parts)
    lengths = [file.length(row) for file, row in places]
    longest = max(lengths)
    if keep.unit == "token":
        padded = parts[0].new_zeros(len(parts), longest, keep.width)
        for b, (part, n) in enumerate(zip(parts, lengths, strict=True)):
            padded[b, :n] = part
        return padded
    padded = parts[0].new_zeros(len(parts), keep.width, longest, longest)
    for b, (part, n) in enumerate(zip(parts, lengths, strict=True)):
        padded[b, :, :n, :n] = part.view(keep.width, n, n)
    # What is computed with scores is never computed in less.
    return padded.float()


def _largest(keep: Keep, places: Sequence[Found]) -> Tensor:
    """Return log-probabilities, log-masses of the rest, and ids side by side, (P, K + T + K)."""

    logs_PK = _answers(keep.name, places).float()
    rest_PT = _answers(f"{keep.name}.rest", places)
    return torch.cat([logs_PK, rest_PT, _ids(keep, places)], dim=-1)


def _sampled(keep: Keep, places: Sequence[Found]) -> Tensor:
    """Return entropies and drawn ids side by side, (P, T + T K)."""
    entropy_PT = _answers(f"{keep.name}.entropy", places)
    return torch.cat([entropy_PT, _ids(keep, places)], dim=-1)


def _answers(name: str, places: Sequence[Found]) -> Tensor:
    return torch.cat([file.part(name, "answer", row) for file, row in places])


def _ids(keep: Keep, places: Sequence[Found]) -> Tensor:
    """Return ids of outcomes, which below 2^24 are exact in float32."""
    ids = _answers(f"{keep.name}.ids", places).int()
    return (ids & np.iinfo(np.uint16).max if keep.narrow_ids else ids).float()
