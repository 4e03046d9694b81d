"""Where the tensors of a model folder lie: its safetensors files and what their headers say.

A safetensors file starts with 8 bytes of header length and a JSON header of names, types, shapes
and offsets, so missing tensors and cut files are found by reading a few kilobytes.
"""

import json
import struct
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from toolchain.artifact import file_sha256, folder_digest
from toolchain.errors import UsageError

__all__ = ["INDEX", "SINGLE", "Stored", "read_header", "weight_files", "weights_digest"]

SINGLE = "model.safetensors"
INDEX = "model.safetensors.index.json"

_DTYPE_BYTES = {
    "F64": 8,
    "F32": 4,
    "F16": 2,
    "BF16": 2,
    "I64": 8,
    "I32": 4,
    "I16": 2,
    "I8": 1,
    "U8": 1,
    "BOOL": 1,
}


@dataclass(frozen=True)
class Stored:
    """One tensor in a file: its type as the header calls it, its shape, its bytes [first, after).

    Both are counted from the start of the file.
    """

    dtype: str
    shape: tuple[int, ...]
    first: int
    after: int


def weight_files(root: Path, where: str) -> list[Path]:
    """Return the safetensors files of a folder. Raises UsageError when one is missing."""
    index = root / INDEX
    if index.is_file():
        try:
            names = sorted(
                set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values())
            )
        except (ValueError, KeyError, AttributeError, TypeError) as error:
            raise UsageError(f"{where}: {index.name} is not an index: {error}") from None
        missing = [name for name in names if Path(name).name != name or not (root / name).is_file()]
        if missing:
            raise UsageError(
                f"{where}: shard {missing[0]!r} is missing, which {index.name} names",
                "fetch the folder again",
            )
        return [root / name for name in names]
    single = root / SINGLE
    if single.is_file():
        return [single]
    pickles = sorted(p.name for p in root.iterdir() if p.suffix in (".bin", ".pt", ".pth", ".ckpt"))
    if pickles:
        raise UsageError(
            f"{where}: only pickled weights ({pickles[0]}), which can run code when read",
            "convert them to safetensors: load with transformers where you trust the file, "
            "then save_pretrained",
        )
    raise UsageError(f"{where}: no model.safetensors")


def weights_digest(root: Path, where: str) -> str:
    """Return the sha256 of a folder's weights: of its one file, or of the names and digests of all.

    Raises UsageError as `weight_files` does.
    """
    files = weight_files(root, where)
    if files == [root / SINGLE]:
        return file_sha256(files[0])
    return folder_digest({file.name: file_sha256(file) for file in files})


def read_header(path: Path, where: str) -> dict[str, Stored]:
    """Return every tensor of a file by its name. Raises UsageError for a damaged file."""
    size = path.stat().st_size
    with path.open("rb") as file:
        start = file.read(8)
        length = struct.unpack("<Q", start)[0] if len(start) == 8 else -1
        if not 0 < length <= size - 8:
            raise UsageError(f"{where}: {path.name} is cut short or not safetensors ({size} bytes)")
        raw = file.read(length)
    try:
        header = json.loads(raw)
        header.pop("__metadata__", None)
        found = {}
        end = 0
        for name, entry in header.items():
            shape = tuple(int(n) for n in entry["shape"])
            first, after = entry["data_offsets"]
            if after - first != _DTYPE_BYTES[entry["dtype"]] * int(np.prod(shape, dtype=np.int64)):
                raise ValueError(f"{name!r} does not have the bytes of its shape")
            found[name] = Stored(entry["dtype"], shape, 8 + length + first, 8 + length + after)
            end = max(end, after)
    except (ValueError, KeyError, TypeError, AttributeError, UnicodeDecodeError) as error:
        raise UsageError(f"{where}: the header of {path.name} is damaged: {error}") from None
    expected = 8 + length + end
    if size != expected:
        raise UsageError(
            f"{where}: {path.name} is cut short or damaged: {size} bytes, expected {expected}",
            "fetch it again",
        )
    return found
