"""LiteRT: runs .tflite files, whose graphs are static: each row in the shortest that holds it.

Shape letters: B batch, N tokens, C outcomes.
"""

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from toolchain.errors import IntegrityError, StepError, UsageError
from toolchain.export.answers import ENDS
from toolchain.runtimes.rows import by_rows
from toolchain.runtimes.runtime import Feed, Session

__all__ = ["open_session"]

_PROVIDER = "CPUExecutionProvider"
_PREFIX = "tokens_"


class _LiteRtSession:
    """One file with a signature of int32 inputs (1, N) per length N.

    Its output is logits, or there are two of ends.
    """

    def __init__(self, path: Path, interpreter: Any, lengths: tuple[int, ...]) -> None:
        self._path = path
        self._interpreter: Any = interpreter
        self._lengths = lengths
        # Opened when a row of that length comes: each packs the weights for itself.
        self._runners: dict[int, Any] = {}
        first = interpreter.get_signature_list()[f"{_PREFIX}{lengths[0]}"]
        self._inputs = tuple(first["inputs"])
        self._ends = set(first["outputs"]) == set(ENDS)

    def run(self, feed: Feed) -> NDArray[np.float32]:
        """Return the logits, (B, C) or (B, N, C), of a feed of (B, N) arrays, row by row."""
        assert self._interpreter is not None, "the session is closed"
        return by_rows(self._path, self._inputs, feed, self._row)

    def _row(self, feed: Feed) -> NDArray[np.float32]:
        """Return the logits of one row of real tokens, (C,) or (N, C)."""
        tokens = feed["input_ids"].shape[1]
        length = next((n for n in self._lengths if n >= tokens), None)
        if length is None:
            raise StepError(
                f"{self._path}: reads at most {self._lengths[-1]} tokens, found {tokens}"
            )
        if length not in self._runners:
            self._runners[length] = self._interpreter.get_signature_runner(f"{_PREFIX}{length}")
        inputs = {}
        for name in self._inputs:
            values = np.zeros((1, length), np.int32)
            values[:, :tokens] = feed[name]
            inputs[name] = values
        try:
            found = self._runners[length](**inputs)
        except (RuntimeError, ValueError) as error:
            reason = " ".join(str(error).split())
            raise StepError(f"{self._path}: litert failed at {length} tokens: {reason}") from None
        if self._ends:
            return np.stack([found[name][0, :tokens] for name in ENDS], axis=-1, dtype=np.float32)
        logits = np.asarray(found["logits"][0], dtype=np.float32)
        return np.asarray(logits if logits.ndim == 1 else logits[:tokens])

    def generate(self, feed: Feed, count: int) -> NDArray[np.int64]:  # noqa: ARG002
        """Refuse: no graph of this format has a cache."""
        raise UsageError(f"{self._path}: a graph without a cache does not go on with texts")

    def close(self) -> None:
        """Free the interpreter."""
        self._runners = {}
        self._interpreter = None


def open_session(path: Path, *, threads: int, provider: str) -> Session:
    """Open a .tflite file written by `toolchain export`, with XNNPACK's kernels."""
    if not path.is_file():
        found = "a folder" if path.is_dir() else "no such file"
        raise UsageError(f"{path}: {found}, litert opens a .tflite file")
    if provider != _PROVIDER:
        raise UsageError(f"litert has no provider {provider!r} here", f"it has: {_PROVIDER}")
    try:
        from ai_edge_litert.interpreter import Interpreter
    except ImportError:
        raise UsageError(
            f"{path}: ai_edge_litert is not installed",
            "pip install -c constraints-litert.txt 'toolchain[litert]'",
        ) from None
    try:
        interpreter = Interpreter(model_path=str(path), num_threads=threads)
        names = interpreter.get_signature_list()
    except (RuntimeError, ValueError) as error:
        reason = " ".join(str(error).split())
        raise IntegrityError(
            f"{path}: not a whole LiteRT model: {reason}", "export it again"
        ) from None
    lengths = sorted(int(n.removeprefix(_PREFIX)) for n in names if n.startswith(_PREFIX))
    if not lengths:
        raise UsageError(f"{path}: holds no signature {_PREFIX}N, found {', '.join(names)}")
    return _LiteRtSession(path, interpreter, tuple(lengths))
