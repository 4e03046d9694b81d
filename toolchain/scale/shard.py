"""One shard of a cache: rows laid end to end in a safetensors file that is read in place.

Every tensor is flat: tokens of all rows one after the other, no padding. `keys` name the rows by
what the teacher read, `tokens` and `answers` say how much of each there is.

Shape letters: B batch, N tokens, D width, H heads, P rows of logits, C outcomes, K kept outcomes,
T temperatures, R rows of a shard.
"""

import hashlib
import json
import struct
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import safetensors.torch
import torch
from numpy.typing import NDArray
from torch import Tensor

from toolchain.data.batching import Rows
from toolchain.data.masking import IGNORED
from toolchain.distill.capture import Captures
from toolchain.distill.extract import Request, attn_scores
from toolchain.errors import IntegrityError, StepError
from toolchain.scale.draws import drawn, stored_ids
from toolchain.scale.knowledge import Keep, Unit

__all__ = ["Packed", "ShardFile", "answers_of", "key_of", "keys_of"]

Ids = NDArray[np.int64]

_KEY_BYTES = 16
_DTYPES = {
    "BF16": torch.bfloat16,
    "F16": torch.float16,
    "F32": torch.float32,
    "I16": torch.int16,
    "I32": torch.int32,
    "I8": torch.int8,
    "U8": torch.uint8,
}
_STORED = {"bf16": torch.bfloat16, "fp32": torch.float32}
_TABLES = ("cos", "sin", "bias")
_COUNTS = ("tokens", "answers")
# Log-probabilities of a vocabulary that are alive together, in values: 2^24 of fp32 are 64 MiB.
_PIECE = 1 << 24


def key_of(inputs: Mapping[str, Ids], supervised_N: NDArray[np.bool_] | None) -> bytes:
    """Return the name of a row: a digest of all that a teacher's answer depends on."""
    digest = hashlib.blake2b(digest_size=_KEY_BYTES)
    for name in sorted(set(inputs) - {"attention_mask"}):
        # A tokenizer that does not say so means the first of two texts.
        if name == "token_type_ids" and not inputs[name].any():
            continue
        digest.update(name.encode() + b"=")
        digest.update(np.ascontiguousarray(inputs[name], dtype=np.int64).tobytes())
    if supervised_N is not None:
        digest.update(b"answers=" + np.packbits(supervised_N).tobytes())
    return digest.digest()


def keys_of(rows: Rows) -> list[bytes]:
    """Return the names of tokenised rows."""
    labels = rows.labels if isinstance(rows.labels, tuple) else None
    return [
        key_of(feature, None if labels is None else labels[i] != IGNORED)
        for i, feature in enumerate(rows.features)
    ]


def answers_of(rows: Rows) -> Ids:
    """Return how many rows of logits each row has, (R,)."""
    if isinstance(rows.labels, tuple):
        return np.array([(labels != IGNORED).sum() for labels in rows.labels], dtype=np.int64)
    width = rows.labels.shape[1] if rows.labels.ndim == 2 else 1
    return np.full(len(rows), width, dtype=np.int64)


class Packed:
    """Rows on their way into a shard."""

    def __init__(self, keeps: Sequence[Keep]) -> None:
        self._keeps = tuple(keeps)
        self._parts: dict[str, list[Tensor]] = {}
        self._tables: dict[str, Tensor] = {}
        self._keys: list[bytes] = []
        self._tokens: list[int] = []
        self._answers: list[int] = []
        self.bytes = 0

    @property
    def rows(self) -> int:
        """Rows so far."""
        return len(self._keys)

    @property
    def tokens(self) -> int:
        """Tokens so far."""
        return sum(self._tokens)

    def take(
        self,
        captures: Captures,
        keys: Sequence[bytes],
        tokens: Sequence[int],
        answers: Sequence[int],
    ) -> None:
        """Take what was captured of a batch that was padded on the right."""
        for keep in self._keeps:
            if keep.kind == "sampled":
                laid = drawn(captures.kept(Request("logits")), keep, keys, answers)
            else:
                laid = _laid_out(keep, captures, tokens)
            for name, part in laid.items():
                self._parts.setdefault(name, []).append(part.contiguous())
                self.bytes += part.numel() * part.element_size()
        self._keep_tables(captures)
        self._keys += keys
        self._tokens += tokens
        self._answers += answers

    def written(self) -> bytes:
        """Return the file."""
        tensors = {name: torch.cat(parts) for name, parts in self._parts.items()}
        tensors |= self._tables
        tensors["keys"] = torch.from_numpy(
            np.frombuffer(b"".join(self._keys), dtype=np.uint8).copy()
        )
        tensors["tokens"] = torch.tensor(self._tokens, dtype=torch.int32)
        tensors["answers"] = torch.tensor(self._answers, dtype=torch.int32)
        return safetensors.torch.save(tensors)

    def _keep_tables(self, captures: Captures) -> None:
        """Keep what positions alone add to scores, from the longest batch so far."""
        attention = captures.attention
        found: dict[str, Tensor] = {}
        if attention.rotary is not None:
            found |= dict(zip(("cos", "sin"), (x[0] for x in attention.rotary), strict=True))
        if attention.bias_NNH is not None:
            found["bias"] = attention.bias_NNH
        for name, table in found.items():
            table = table.detach().float().cpu().contiguous()
            known = self._tables.get(name)
            if known is not None:
                short, long = sorted((known, table), key=len)
                same = _first_positions(long, len(short), name)
                if not torch.allclose(short, same, rtol=1e-3, atol=1e-5):
                    raise StepError(
                        "the teacher turns positions by the length of a row: its scores cannot be "
                        "recomputed from a cache",
                        "use placement.teacher=whole",
                    )
            if known is None or len(known) < len(table):
                self._tables[name] = table


def _first_positions(table: Tensor, count: int, name: str) -> Tensor:
    return table[:count, :count] if name == "bias" else table[:count]


def _laid_out(keep: Keep, captures: Captures, tokens: Sequence[int]) -> dict[str, Tensor]:
    """Return the flat tensors of one batch, by their names in the file."""
    if keep.kind == "largest":
        return _largest(captures.kept(Request("logits")), keep)
    values = _read(keep, captures).detach()
    if keep.unit == "pair":
        rows = [values[b, :, :n, :n].reshape(-1) for b, n in enumerate(tokens)]
        return {keep.name: torch.cat(rows).to(_STORED[keep.precision]).cpu()}
    if keep.unit == "token":
        values = torch.cat([values[b, :n].reshape(n, -1) for b, n in enumerate(tokens)])
    if keep.precision != "int8":
        return {keep.name: values.to(_STORED[keep.precision]).cpu()}
    values = values.float()
    scale = values.abs().amax(-1).clamp(min=torch.finfo(torch.float32).tiny) / 127
    whole = (values / scale[:, None]).round().clamp(-127, 127).to(torch.int8)
    return {keep.name: whole.cpu(), f"{keep.name}.scale": scale.cpu()}


def _read(keep: Keep, captures: Captures) -> Tensor:
    match keep.kind:
        case "scores":
            return captures.get(attn_scores, keep.layer)
        case "q_normed":
            return captures.attention.normed[Request("q", keep.layer)]
        case "k_normed":
            return captures.attention.normed[Request("k", keep.layer)]
        case "largest" | "sampled":
            raise AssertionError("taken apart before")
        case kind:
            return captures.kept(Request(kind, keep.layer))


def _largest(logits_PC: Tensor, keep: Keep) -> dict[str, Tensor]:
    """Return log-probabilities (P, K), ids (P, K) and the log-mass of the rest (P, T)."""
    values, ids, rests = [], [], []
    for rows_PC in torch.split(logits_PC, max(1, _PIECE // logits_PC.shape[-1])):
        logs_PC = rows_PC.float().log_softmax(-1)
        top_PK, ids_PK = logs_PC.topk(keep.width, dim=-1)
        others_PC = logs_PC.scatter(-1, ids_PK, float("-inf"))
        rests.append(torch.stack([(others_PC / t).logsumexp(-1) for t in keep.taus], dim=-1).cpu())
        values.append(top_PK.clamp(min=torch.finfo(torch.float16).min).half().cpu())
        ids.append(ids_PK.cpu())
    return {
        keep.name: torch.cat(values),
        f"{keep.name}.ids": stored_ids(torch.cat(ids), keep),
        f"{keep.name}.rest": torch.cat(rests),
    }


class ShardFile:
    """A shard on disk, mapped into memory: what is not read is not loaded."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._tensors = _mapped(path)
        tokens, answers = (self._tensors[name].numpy().astype(np.int64) for name in _COUNTS)
        self._lengths = tokens
        self._ends: dict[Unit, Ids] = {
            "row": np.arange(len(tokens) + 1),
            "token": _ends(tokens),
            "answer": _ends(answers),
            "pair": _ends(tokens**2),
        }

    @property
    def keys(self) -> list[bytes]:
        """The names of its rows, in order."""
        raw = self._tensors["keys"].numpy().tobytes()
        return [raw[i : i + _KEY_BYTES] for i in range(0, len(raw), _KEY_BYTES)]

    def length(self, row: int) -> int:
        """Return the tokens of a row."""
        return int(self._lengths[row])

    def part(self, name: str, unit: Unit, row: int, width: int = 1) -> Tensor:
        """Return one row of a tensor, as it is stored; `width` is that of flat ones."""
        ends = self._ends[unit]
        return self._tensors[name][ends[row] * width : ends[row + 1] * width]

    def tables(self) -> dict[str, Tensor]:
        """Return what positions add to scores, for rows no longer than the longest here."""
        return {name: self._tensors[name] for name in _TABLES if name in self._tensors}


def _ends(counts: Ids) -> Ids:
    return np.concatenate([[0], np.cumsum(counts)])


def _mapped(path: Path) -> dict[str, Tensor]:
    try:
        with path.open("rb") as file:
            length = struct.unpack("<Q", file.read(8))[0]
            header = json.loads(file.read(length))
        # Copy on write: torch warns of memory that it may not write to.
        raw = np.memmap(path, dtype=np.uint8, mode="c", offset=8 + length)
        tensors = {}
        for name, entry in header.items():
            if name != "__metadata__":
                first, after = entry["data_offsets"]
                flat = torch.from_numpy(raw[first:after]).view(_DTYPES[entry["dtype"]])
                tensors[name] = flat.view(entry["shape"])
        return tensors
    except (OSError, ValueError, KeyError, TypeError, struct.error, RuntimeError) as error:
        raise IntegrityError(
            f"{path}: not a shard of a cache: {error}",
            "run toolchain cache again with the same arguments: it makes that shard alone anew",
        ) from None
