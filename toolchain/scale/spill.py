"""Tensors of many batches kept until they are asked for: in memory up to a limit, then on disk."""

import os
import shutil
import tempfile
from collections.abc import Hashable
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Generic, TypeVar

import torch
from torch import Tensor

from toolchain.errors import IntegrityError, ResourceError
from toolchain.scale.weights import bytes_of

__all__ = ["Spill"]

K = TypeVar("K", bound=Hashable)


@dataclass(frozen=True)
class _OnDisk:
    first: int
    shape: torch.Size
    dtype: torch.dtype
    nbytes: int


class Spill(Generic[K]):
    """Keeps CPU tensors by batch and name, while in a `with` block.

    What goes to disk lies in one file without a name, which the system removes with the process,
    however that ends.
    """

    def __init__(self, memory_bytes: int, work: Path | None = None) -> None:
        """Keep up to `memory_bytes` in memory; the file lies in `work`, or where temporaries do."""
        self._limit = memory_bytes
        self._folder = Path(work or tempfile.gettempdir())
        self._file: int | None = None
        self._end = 0
        self.memory_bytes = 0
        self._kept: dict[int, dict[K, Tensor | _OnDisk]] = {}

    def __enter__(self) -> "Spill[K]":
        """Keep nothing yet."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Forget everything, and the file with it."""
        self._kept.clear()
        self.memory_bytes = 0
        if self._file is not None:
            os.close(self._file)
            self._file = None

    @property
    def disk_bytes(self) -> int:
        """How long the file is."""
        return self._end

    def put(self, batch: int, name: K, tensor: Tensor) -> None:
        """Keep a tensor, in the place of an earlier one of that name."""
        place = self._kept.setdefault(batch, {})
        before = place.get(name)
        self.drop(batch, name)
        # A slice would keep all that it is a slice of.
        tensor = tensor.contiguous()
        if self.memory_bytes + tensor.nbytes <= self._limit:
            self.memory_bytes += tensor.nbytes
            place[name] = tensor
            return
        first = self._end
        if isinstance(before, _OnDisk) and before.nbytes == tensor.nbytes:
            first = before.first
        self._write(tensor, first)
        self._end = max(self._end, first + tensor.nbytes)
        place[name] = _OnDisk(first, tensor.shape, tensor.dtype, tensor.nbytes)

    def get(self, batch: int, name: K) -> Tensor:
        """Return a kept tensor."""
        kept = self._kept[batch][name]
        return kept if isinstance(kept, Tensor) else self._read(kept)

    def names(self, batch: int) -> tuple[K, ...]:
        """Return what is kept of a batch."""
        return tuple(self._kept.get(batch, ()))

    def drop(self, batch: int, name: K) -> None:
        """Forget a tensor, if it is there; its place on disk stays."""
        before = self._kept.get(batch, {}).pop(name, None)
        if isinstance(before, Tensor):
            self.memory_bytes -= before.nbytes

    def pop(self, batch: int) -> dict[K, Tensor]:
        """Return all that is kept of a batch, and forget it."""
        found = {name: self.get(batch, name) for name in self.names(batch)}
        for name in found:
            self.drop(batch, name)
        return found

    def _write(self, tensor: Tensor, first: int) -> None:
        try:
            if self._file is None:
                self._folder.mkdir(parents=True, exist_ok=True)
                with tempfile.TemporaryFile(dir=self._folder) as file:
                    self._file = os.dup(file.fileno())
            rest = bytes_of(tensor)
            while rest:
                count = os.pwrite(self._file, rest, first)
                rest, first = rest[count:], first + count
        except OSError as error:
            free = shutil.disk_usage(self._folder).free if self._folder.is_dir() else 0
            raise ResourceError(
                f"{self._folder}: {self._end + tensor.nbytes} bytes of a teacher's activations do "
                f"not fit ({error.strerror}; {free} bytes are free)",
                "stream fewer rows at a time, or put the work folder on a larger disk",
            ) from None

    def _read(self, kept: _OnDisk) -> Tensor:
        assert self._file is not None
        tensor = torch.empty(kept.shape, dtype=kept.dtype)
        rest, first = bytes_of(tensor), kept.first
        while rest:
            count = os.preadv(self._file, [rest], first)
            if not count:
                raise IntegrityError(f"{self._folder}: the file of activations was cut short")
            rest, first = rest[count:], first + count
        return tensor
