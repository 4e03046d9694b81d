"""How scripts of bundles open an ExecuTorch program: stands in the place of their `_open_model`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch  # Before the bindings, which are linked against its libraries.
from executorch.extension.pybindings import _C

from toolchain.bundle.assets.classify import BundleError, _first_line

__all__: list[str] = []


class _Model:
    """A program that takes one row and answers like an onnxruntime session, row by row."""

    def __init__(self, program: Any) -> None:
        # Its methods read the memory that it holds.
        self._program, self._method = program, program.load_method("forward")
        self._inputs, self._outputs = (
            str(program.load_method(name)([])[0]).split(",")
            for name in ("get_inputs", "get_outputs")
        )

    def run(self, outputs: list[str], feed: dict[str, Any]) -> list[Any]:
        """Return the outputs of these names."""
        rows = [self._row(feed, row) for row in range(len(feed["input_ids"]))]
        return [np.concatenate([row[name] for row in rows]) for name in outputs]

    def _row(self, feed: dict[str, Any], row: int) -> dict[str, Any]:
        inputs = [torch.from_numpy(feed[name][row : row + 1]) for name in self._inputs]
        found = zip(self._outputs, self._method(inputs), strict=True)
        return {name: values.numpy() for name, values in found}


def _open_model(path: Path, provider: str, threads: int) -> _Model:
    try:
        if provider != "CPUExecutionProvider":
            raise ValueError(f"no provider {provider}")
        _C._unsafe_reset_threadpool(threads)
        checked = _C.Verification.InternalConsistency
        return _Model(_C._load_program(str(path), program_verification=checked))
    except Exception as error:  # Its errors share no narrower base.
        raise BundleError(f"{path.name}: cannot be opened: {_first_line(error)}") from error
