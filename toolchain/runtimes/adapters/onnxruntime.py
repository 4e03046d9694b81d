"""ONNX Runtime: runs .onnx and .ort files, the runtime of most targets."""

import re
from pathlib import Path

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray
from onnxruntime.capi import onnxruntime_pybind11_state as ort_errors

from toolchain.errors import IntegrityError, StepError, ToolchainError, UsageError
from toolchain.export.answers import ENDS
from toolchain.runtimes.runtime import Feed, Session

__all__ = ["open_session"]

# What a cut, foreign or incomplete file raises; every other refusal is about what the file asks.
_DAMAGED = (ort_errors.InvalidProtobuf, ort_errors.InvalidArgument, ort_errors.NoSuchFile)
_REFUSED = (
    *_DAMAGED,
    ort_errors.EPFail,
    ort_errors.Fail,
    ort_errors.InvalidGraph,
    ort_errors.NotImplemented,
    ort_errors.RuntimeException,
)
_UNWHOLE = re.compile(r"\bExternal (data|initializer)\b|\bORT model verification failed\b")
_PREFIX = re.compile(
    r"^(\[ONNXRuntimeError\] : \d+ : [A-Z_]+ : )?(Load model from .*? failed:)?\s*"
)
_SOURCE_LINE = re.compile(r"\b\w+\.cc:\d+ \w+ ")
_FATAL = 4
_PAST = "past_key_values."


class _OnnxSession:
    """One graph with int64 inputs (B, N) and a float output of logits, or two: begin and end.

    A decoder's cache is given as nothing remembered, so that all tokens are read as a prompt.
    """

    def __init__(self, path: Path, session: ort.InferenceSession) -> None:
        self._path = path
        self._session: ort.InferenceSession | None = session
        given = session.get_inputs()
        self._cache = {node.name: node.shape for node in given if _is_cache(node)}
        self._inputs = tuple(node.name for node in given if node.name not in self._cache)
        self._outputs = _logits_of(path, session)

    def run(self, feed: Feed) -> NDArray[np.float32]:
        """Return the logits, (B, C) or (B, N, C), of a feed of (B, N) arrays."""
        assert self._session is not None, "the session is closed"
        known = dict(feed)
        if "position_ids" in self._inputs and "attention_mask" in feed:
            known.setdefault("position_ids", _positions(feed["attention_mask"]))
        try:
            inputs = {name: known[name] for name in self._inputs}
        except KeyError as missing:
            raise UsageError(
                f"{self._path}: the graph asks for {missing}, the feed has {', '.join(feed)}"
            ) from None
        try:
            found = self._session.run(list(self._outputs), {**inputs, **self._empty(feed)})
        except _REFUSED as error:
            raise StepError(
                f"{self._path}: onnxruntime failed on a feed of shape {_shape(feed)}: "
                f"{_reason(error)}"
            ) from None
        logits = found[0] if len(found) == 1 else np.stack(found, axis=-1)
        return np.asarray(logits, dtype=np.float32)

    def generate(self, feed: Feed, count: int) -> NDArray[np.int64]:
        """Return the `count` tokens that follow one prompt, (1, count), each in a step of its own.

        What is remembered stays in the runtime's memory between steps.
        """
        assert self._session is not None, "the session is closed"
        if not self._cache:
            raise UsageError(f"{self._path}: a graph without a cache does not go on with texts")
        names = [*self._outputs, *(name.replace(_PAST, "present.") for name in self._cache)]
        values = {n: ort.OrtValue.ortvalue_from_numpy(a) for n, a in self._empty(feed).items()}
        ids = feed["input_ids"]
        total, found = 0, []
        for _ in range(count):
            total += ids.shape[1]
            given = {
                "input_ids": ids,
                "attention_mask": np.ones((1, total), np.int64),
                "position_ids": np.arange(total - ids.shape[1], total, dtype=np.int64)[None],
            }
            values |= {
                n: ort.OrtValue.ortvalue_from_numpy(given[n]) for n in self._inputs if n in given
            }
            try:
                logits, *grown = self._session.run_with_ort_values(names, values)
            except _REFUSED as error:
                raise StepError(
                    f"{self._path}: onnxruntime failed after {total} tokens: {_reason(error)}"
                ) from None
            values |= dict(zip(self._cache, grown, strict=True))
            ids = logits.numpy()[:, -1:].argmax(axis=-1).astype(np.int64)
            found.append(ids)
        return np.concatenate(found, axis=1)

    def _empty(self, feed: Feed) -> dict[str, NDArray[np.float32]]:
        """Return a cache (B, H, 0, K) of no token."""
        rows = len(feed["input_ids"]) if self._cache else 0
        return {
            name: np.zeros((rows, shape[1], 0, shape[3]), np.float32)
            for name, shape in self._cache.items()
        }

    def close(self) -> None:
        """Free the native session."""
        self._session = None


def _is_cache(node: ort.NodeArg) -> bool:
    """Return whether an input holds what a decoder remembers, in fp32."""
    return bool(node.name.startswith(_PAST) and node.type == "tensor(float)")


def _positions(mask_BN: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return the place of each token among the real ones of its row, (B, N)."""
    return np.asarray((mask_BN.cumsum(axis=1) - 1).clip(min=0))


def _shape(feed: Feed) -> str:
    return " x ".join(str(size) for size in next(iter(feed.values())).shape)


def _reason(error: Exception) -> str:
    """Return onnxruntime's reason as one line, without its own prefixes."""
    text = _PREFIX.sub("", " ".join(str(error).split()))
    return " ".join(_SOURCE_LINE.sub(" ", text).split()).rstrip(".")


def _logits_of(path: Path, session: ort.InferenceSession) -> tuple[str, ...]:
    """Return the outputs to read: the one called logits, those of a question, else the only one."""
    for node in session.get_inputs():
        if node.type != "tensor(int64)" and not _is_cache(node):
            raise UsageError(
                f"{path}: input {node.name!r} is {node.type}, a text model takes tensor(int64)"
            )
    names = [str(node.name) for node in session.get_outputs()]
    if "logits" in names:
        return ("logits",)
    if set(ENDS) <= set(names):
        return ENDS
    if len(names) != 1:
        raise UsageError(f"{path}: no output is called 'logits', found {', '.join(names)}")
    return (names[0],)


def _options(threads: int) -> ort.SessionOptions:
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.execution_mode = ort.ExecutionMode.ORT_SEQUENTIAL
    options.log_severity_level = _FATAL
    if threads > 1:
        # Waiting threads that spin burn the core that the next contender is timed on.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    return options


def _refusal(path: Path, error: Exception) -> ToolchainError:
    # Weights beside the file that are cut or gone have no exception of their own, nor has .ort.
    if isinstance(error, _DAMAGED) or _UNWHOLE.search(str(error)):
        kind = "ORT" if path.suffix == ".ort" else "ONNX"
        return IntegrityError(
            f"{path}: not a whole {kind} model: {_reason(error)}", "export or download it again"
        )
    return UsageError(f"{path}: onnxruntime {ort.__version__} cannot run it: {_reason(error)}")


def open_session(path: Path, *, threads: int, provider: str) -> Session:
    """Open an .onnx file with all graph optimisations, or an .ort file, which had its own.

    Nodes run one after the other.

    `provider` is an onnxruntime provider that this installation has; there is no silent fallback
    to another one.
    """
    if not path.is_file():
        found = "a folder" if path.is_dir() else "no such file"
        raise UsageError(f"{path}: {found}, onnxruntime opens an .onnx file")
    available = ort.get_available_providers()
    if provider not in available:
        raise UsageError(
            f"onnxruntime has no provider {provider!r} here", f"it has: {', '.join(available)}"
        )
    try:
        session = ort.InferenceSession(str(path), _options(threads), providers=[provider])
    except _REFUSED as error:
        raise _refusal(path, error) from None
    return _OnnxSession(path, session)
