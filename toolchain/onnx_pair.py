"""Where the weights of a large ONNX model lie: in one file beside the graph, `model.onnx_data`.

A protobuf message, and so one .onnx file, holds at most 2 GB. Above `one_file_bytes` the graph's
file names the other, and says its sha256, so that the digest of the graph stands for both.
"""

import os
from pathlib import Path

from toolchain.errors import UsageError

__all__ = ["DATA_SUFFIX", "ONE_FILE", "WEIGHTS_SHA256", "bytes_of", "data_of", "one_file_bytes"]

DATA_SUFFIX = "_data"
"""What its name has more than its graph\'s; transformers.js and optimum look for it so."""

WEIGHTS_SHA256 = "weights_sha256"
"""The key of the graph's metadata that holds the digest of that file."""

ONE_FILE = "TOOLCHAIN_ONNX_FILE_BYTES"
"""The variable of the environment with the most bytes of a model that is written as one file."""

# A bit below 2**31 - 1: the message has room for its graph, and for what a runtime adds to it.
_LIMIT = 2**31 - 2**24


def data_of(path: Path) -> Path:
    """Return where the weights of the graph `path` lie when they are not in it."""
    return path.with_name(path.name + DATA_SUFFIX)


def bytes_of(path: Path) -> int:
    """Return the bytes of a graph's file and of its weights beside it, where it has any."""
    return sum(file.stat().st_size for file in (path, data_of(path)) if file.is_file())


def one_file_bytes() -> int:
    """Return the most bytes of a model that is written as one file.

    Raises UsageError where the environment asks for more than one file can hold, or for no number.
    """
    asked = os.environ.get(ONE_FILE, "")
    if not asked:
        return _LIMIT
    if not asked.isascii() or not asked.isdigit() or int(asked) > _LIMIT:
        raise UsageError(f"{ONE_FILE} is {asked!r}, expected a number of bytes up to {_LIMIT}")
    return int(asked)
