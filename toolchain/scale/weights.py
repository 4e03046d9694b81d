"""A checkpoint's tensors, read one at a time, so that a model never has to be in memory whole.

Files are read into buffers rather than mapped: pages of a mapping count as memory of the process
until the system takes them back, and nobody could say what a streamed teacher needs.

Shape letters: V vocabulary, D width, U different ids.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor

from toolchain.errors import IntegrityError, UsageError
from toolchain.models.shards import Stored, read_header, weight_files

__all__ = ["FileWeights", "Weights", "buffer_for", "bytes_of"]

_DTYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
}


class Weights(Protocol):
    """Tensors by name. Reading is safe from a thread beside the one that computes."""

    @property
    def shapes(self) -> Mapping[str, tuple[int, ...]]:
        """The shape of every tensor there is."""

    def read(self, name: str, buffer: Tensor | None = None) -> Tensor:
        """Return one tensor on the CPU, in the type it is stored in.

        A buffer of that type and shape is filled and returned, any other is left alone.
        """

    def rows(self, name: str, ids: Tensor) -> Tensor:
        """Return rows of a table (V, D) by their numbers: (*ids.shape, D)."""


class FileWeights:
    """The safetensors files of a model folder, one or many."""

    def __init__(self, root: Path) -> None:
        """Read the headers. Raises UsageError naming a missing shard or a damaged one."""
        self._root = root
        self._places: dict[str, tuple[Path, Stored]] = {}
        for path in weight_files(root, f"teacher {root}"):
            header = read_header(path, f"teacher {root}")
            self._places.update({name: (path, stored) for name, stored in header.items()})

    @property
    def shapes(self) -> Mapping[str, tuple[int, ...]]:
        """The shape of every tensor in the files."""
        return {name: stored.shape for name, (_, stored) in self._places.items()}

    def read(self, name: str, buffer: Tensor | None = None) -> Tensor:
        """Return one tensor. Raises IntegrityError when its file has become shorter."""
        path, stored = self._places[name]
        tensor = buffer_for(stored.shape, self._dtype(name), buffer)
        self._fill(tensor, path, stored.first)
        return tensor

    def rows(self, name: str, ids: Tensor) -> Tensor:
        """Return rows of a table, each read once."""
        path, stored = self._places[name]
        unique_U, where = torch.unique(ids.cpu(), return_inverse=True)
        table_UD = torch.empty((len(unique_U), stored.shape[1]), dtype=self._dtype(name))
        for row_D, number in zip(table_UD, unique_U.tolist(), strict=True):
            self._fill(row_D, path, stored.first + number * row_D.nbytes)
        return table_UD[where]

    def _dtype(self, name: str) -> torch.dtype:
        path, stored = self._places[name]
        if stored.dtype not in _DTYPES:
            raise UsageError(
                f"teacher {self._root}: {name!r} in {path.name} is of type {stored.dtype}",
                f"weights are read as {', '.join(sorted(_DTYPES))}",
            )
        return _DTYPES[stored.dtype]

    def _fill(self, tensor: Tensor, path: Path, first: int) -> None:
        rest = bytes_of(tensor)
        with path.open("rb", buffering=0) as file:
            file.seek(first)
            while rest:
                count = file.readinto(rest)
                if not count:
                    raise IntegrityError(
                        f"teacher {self._root}: {path.name} ends before its last tensor: it has "
                        "changed since its header was read",
                        "fetch it again, and let nothing write to it while a teacher is streamed",
                    )
                rest = rest[count:]


def buffer_for(shape: tuple[int, ...], dtype: torch.dtype, buffer: Tensor | None) -> Tensor:
    """Return the buffer where it fits, a new one otherwise."""
    if (
        buffer is not None
        and buffer.device.type == "cpu"
        and buffer.dtype == dtype
        and tuple(buffer.shape) == shape
    ):
        return buffer
    return torch.empty(shape, dtype=dtype)


def bytes_of(tensor: Tensor) -> memoryview:
    """Return the memory of a contiguous CPU tensor, to read into it or to write it."""
    return memoryview(tensor.view(-1).view(torch.uint8).numpy())  # type: ignore[arg-type]
