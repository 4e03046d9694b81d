"""ExecuTorch: runs .pte files, a row at a time, by XNNPACK's kernels.

Its bindings are opened without the package around them, which would load the whole exporter: three
seconds and 130 MB. They hold their threads for the whole process: a session sets their number for
all that are open.

Shape letters: B batch, N tokens, C outcomes.
"""

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from toolchain.errors import IntegrityError, StepError, UsageError
from toolchain.export.answers import ENDS
from toolchain.export.quiet import mute
from toolchain.runtimes.rows import by_rows
from toolchain.runtimes.runtime import Feed, Session

__all__ = ["open_session"]

_PROVIDER = "CPUExecutionProvider"


class _ExecuTorchSession:
    """One program with int64 inputs (1, N), and an output of logits or two of ends."""

    def __init__(self, path: Path, program: Any) -> None:
        self._path = path
        # Its methods read the memory that it holds.
        self._program: Any = program
        self._inputs, self._outputs = (
            tuple(str(program.load_method(name)([])[0]).split(","))
            for name in ("get_inputs", "get_outputs")
        )
        self._method: Any = program.load_method("forward")
        self._longest = int(self._method.method_meta().input_tensor_meta(0).sizes()[1])

    def run(self, feed: Feed) -> NDArray[np.float32]:
        """Return the logits, (B, C) or (B, N, C), of a feed of (B, N) arrays, row by row."""
        assert self._method is not None, "the session is closed"
        return by_rows(self._path, self._inputs, feed, self._row)

    def _row(self, feed: Feed) -> NDArray[np.float32]:
        """Return the logits of one row of real tokens, (C,) or (N, C)."""
        import torch

        tokens = feed["input_ids"].shape[1]
        if tokens > self._longest:
            raise StepError(f"{self._path}: reads at most {self._longest} tokens, found {tokens}")
        inputs = [torch.from_numpy(np.ascontiguousarray(feed[name])) for name in self._inputs]
        try:
            found = [values.numpy()[0] for values in self._method(inputs)]
        except RuntimeError as error:
            raise StepError(
                f"{self._path}: executorch failed at {tokens} tokens: {_reason(error)}"
            ) from None
        return np.stack(found, axis=-1) if self._outputs == ENDS else found[0]

    def generate(self, feed: Feed, count: int) -> NDArray[np.int64]:  # noqa: ARG002
        """Refuse: no graph of this format has a cache."""
        raise UsageError(f"{self._path}: a graph without a cache does not go on with texts")

    def close(self) -> None:
        """Free the program and its memory."""
        self._method = self._program = None


def _reason(error: Exception) -> str:
    return " ".join(str(error).split())


def open_session(path: Path, *, threads: int, provider: str) -> Session:
    """Open a .pte file written by `toolchain export`."""
    if not path.is_file():
        found = "a folder" if path.is_dir() else "no such file"
        raise UsageError(f"{path}: {found}, executorch opens a .pte file")
    if provider != _PROVIDER:
        raise UsageError(f"executorch has no provider {provider!r} here", f"it has: {_PROVIDER}")
    try:
        # First: the bindings are linked against its libraries.
        import torch  # noqa: F401
        from executorch.extension.pybindings import _C as bindings
    except ImportError:
        raise UsageError(
            f"{path}: executorch is not installed",
            "pip install -c constraints.txt 'toolchain[executorch]'",
        ) from None
    try:
        # It tells on stderr which files it looks at to know the CPU.
        with mute():
            if bindings._threadpool_get_thread_count() != threads:
                bindings._unsafe_reset_threadpool(threads)
            program = bindings._load_program(
                str(path), program_verification=bindings.Verification.InternalConsistency
            )
            return _ExecuTorchSession(path, program)
    except RuntimeError as error:
        raise IntegrityError(
            f"{path}: not a whole ExecuTorch program: {_reason(error)}", "export it again"
        ) from None
