"""A safetensors file written one tensor at a time, without a copy of them all.

The header, which stands first and says where every tensor is, is written last into room that was
left for it. Numbers begin at multiples of eight, as readers that map the file need; the format
knows no gaps, so what lies between is a tensor too, called `gap.N`.
"""

import json
import struct
from typing import BinaryIO

import torch
from torch import Tensor

__all__ = ["TensorFile"]

_TYPES = {
    torch.float64: "F64",
    torch.float32: "F32",
    torch.float16: "F16",
    torch.bfloat16: "BF16",
    torch.int64: "I64",
    torch.int32: "I32",
    torch.int16: "I16",
    torch.int8: "I8",
    torch.uint8: "U8",
    torch.bool: "BOOL",
}
_ALIGNED = 8
# What the header says of one tensor: a path, a type, a shape, two offsets.
_ENTRY = 256


class TensorFile:
    """Writes at most `most` tensors, and a text, into an empty file."""

    def __init__(self, file: BinaryIO, *, most: int, state: str) -> None:
        self._file, self._state = file, state
        self._room = most * _ENTRY + len(json.dumps(state)) + _ENTRY
        self._room += -self._room % _ALIGNED
        self._entries: dict[str, object] = {}
        self._written = 0
        file.seek(8 + self._room)

    def add(self, name: str, tensor: Tensor) -> None:
        """Write one more tensor; those that share memory are written each."""
        gap = -self._written % _ALIGNED
        if gap:
            self._put(f"gap.{self._written}", torch.zeros(gap, dtype=torch.uint8))
        self._put(name, tensor.detach().cpu().contiguous())

    def end(self) -> None:
        """Write the header."""
        header = json.dumps({"__metadata__": {"state": self._state}, **self._entries}).encode()
        assert len(header) <= self._room, f"a header of {len(header)} bytes, room {self._room}"
        self._file.seek(0)
        self._file.write(struct.pack("<Q", self._room) + header.ljust(self._room))

    def _put(self, name: str, tensor: Tensor) -> None:
        # A tensor without axes has no bytes to look at.
        data = tensor.reshape(-1).view(torch.uint8).numpy()
        self._entries[name] = {
            "dtype": _TYPES[tensor.dtype],
            "shape": list(tensor.shape),
            "data_offsets": [self._written, self._written + data.nbytes],
        }
        self._file.write(data.data)
        self._written += data.nbytes
