"""OpenVINO: runs graphs for Intel's CPUs, in the precision that their files ask for.

The precision is always said to the runtime: left to itself it computes fp32 graphs in bf16 where
the CPU has it. One request, one stream: the latency of one row is what is asked for.
"""

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from toolchain.errors import IntegrityError, StepError, UsageError
from toolchain.export.answers import ENDS
from toolchain.runtimes.runtime import Feed, Session

__all__ = ["open_session"]

_PROVIDER = "CPUExecutionProvider"
_HINTS = {"fp32": "f32", "bf16": "bf16", "int8": "f32"}


class _OpenVinoSession:
    """One graph with int64 inputs (B, N) and one float output of logits, or two of ends."""

    def __init__(self, path: Path, compiled: Any, limit: int) -> None:
        self._path, self._limit = path, limit
        self._request: Any = compiled.create_infer_request()
        self._inputs = tuple(port.any_name for port in compiled.inputs)
        own = tuple(port.any_name for port in compiled.outputs)
        self._outputs = ENDS if set(ENDS) <= set(own) else own

    def run(self, feed: Feed) -> NDArray[np.float32]:
        """Return the logits, (B, C) or (B, N, C), of a feed of (B, N) arrays."""
        assert self._request is not None, "the session is closed"
        try:
            inputs = {name: feed[name] for name in self._inputs}
        except KeyError as missing:
            raise UsageError(
                f"{self._path}: the graph asks for {missing}, the feed has {', '.join(feed)}"
            ) from None
        tokens = feed["input_ids"].shape[1]
        if 0 < self._limit < tokens:
            raise StepError(f"{self._path}: reads at most {self._limit} tokens, found {tokens}")
        try:
            given = self._request.infer(inputs, share_inputs=True)
        except RuntimeError as error:
            shape = " x ".join(str(size) for size in next(iter(feed.values())).shape)
            raise StepError(
                f"{self._path}: openvino failed on a feed of shape {shape}: {_reason(error)}"
            ) from None
        found = [given[name] for name in self._outputs]
        # The request's own memory is written anew by the next run.
        logits = np.array(found[0]) if len(found) == 1 else np.stack(found, axis=-1)
        return np.asarray(logits, dtype=np.float32)

    def generate(self, feed: Feed, count: int) -> NDArray[np.int64]:  # noqa: ARG002
        """Refuse: no graph of this format has a cache."""
        raise UsageError(f"{self._path}: a graph without a cache does not go on with texts")

    def close(self) -> None:
        """Free the compiled graph."""
        self._request = None


def _reason(error: Exception) -> str:
    """Return the last line of openvino's reason: what stands before it are places in its code."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1][:300].rstrip(".") if lines else type(error).__name__


def _stated(model: Any, what: str) -> str:
    """Return what our exporter wrote into the graph's file, or an empty string."""
    place = ["toolchain", what]
    return str(model.get_rt_info(place).value) if model.has_rt_info(place) else ""


def open_session(path: Path, *, threads: int, provider: str) -> Session:
    """Open an .xml file with the .bin beside it, for the CPU alone."""
    if not path.is_file():
        found = "a folder" if path.is_dir() else "no such file"
        raise UsageError(f"{path}: {found}, openvino opens an .xml file")
    if provider != _PROVIDER:
        raise UsageError(f"openvino has no provider {provider!r} here", f"it has: {_PROVIDER}")
    try:
        import openvino
    except ImportError:
        raise UsageError(
            f"{path}: openvino is not installed",
            "pip install -c constraints.txt 'toolchain[openvino]'",
        ) from None
    if path.suffix == ".xml" and not path.with_suffix(".bin").is_file():
        raise IntegrityError(f"{path}: its weights, {path.stem}.bin, are missing")
    core = openvino.Core()
    try:
        model = core.read_model(path)
        hint = _HINTS.get(_stated(model, "precision"), "f32")
        limit = int(_stated(model, "max_tokens") or 0)
        compiled = core.compile_model(
            model,
            "CPU",
            {
                "INFERENCE_NUM_THREADS": threads,
                "NUM_STREAMS": 1,
                "PERFORMANCE_HINT": "LATENCY",
                "INFERENCE_PRECISION_HINT": hint,
            },
        )
    except RuntimeError as error:
        raise IntegrityError(
            f"{path}: not a whole OpenVINO model: {_reason(error)}", "export it again"
        ) from None
    return _OpenVinoSession(path, compiled, limit)
