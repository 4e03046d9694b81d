"""How scripts of bundles open a LiteRT model: stands in the place of their `_open_model`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import ai_edge_litert.interpreter
import numpy as np

from toolchain.bundle.assets.classify import BundleError, _first_line

__all__: list[str] = []


class _Model:
    """Graphs of fixed lengths that answer like an onnxruntime session, row by row."""

    def __init__(self, interpreter: Any) -> None:
        names = interpreter.get_signature_list()
        self._lengths = sorted(int(name.removeprefix("tokens_")) for name in names)
        self._interpreter, self._runners = interpreter, dict[int, Any]()

    def run(self, outputs: list[str], feed: dict[str, Any]) -> list[Any]:
        """Return the outputs of these names; what padding would answer is left at 0."""
        mask = feed["attention_mask"]
        rows = [self._row(feed, row, max(1, int(mask[row].sum()))) for row in range(len(mask))]
        return [self._joined(name, [row[name] for row in rows], mask.shape) for name in outputs]

    def _row(self, feed: dict[str, Any], row: int, tokens: int) -> dict[str, Any]:
        length = next(length for length in self._lengths if length >= tokens)
        if length not in self._runners:
            self._runners[length] = self._interpreter.get_signature_runner(f"tokens_{length}")
        inputs = {name: np.zeros((1, length), np.int32) for name in feed}
        for name, values in inputs.items():
            values[0, :tokens] = feed[name][row, :tokens]
        found: dict[str, Any] = self._runners[length](**inputs)
        return {name: np.array(values[0]) for name, values in found.items()}

    def _joined(self, name: str, rows: list[Any], shape: tuple[int, int]) -> Any:
        # Where answers begin and end is one figure a token, as classes are one a row.
        if rows[0].ndim == 1 and name not in ("start_logits", "end_logits"):
            return np.stack(rows)
        joined = np.zeros((*shape, *rows[0].shape[1:]), np.float32)
        for place, row in enumerate(rows):
            joined[place, : len(row)] = row[: shape[1]]
        return joined


def _open_model(path: Path, provider: str, threads: int) -> _Model:
    try:
        if provider != "CPUExecutionProvider":
            raise ValueError(f"no provider {provider}")
        return _Model(
            ai_edge_litert.interpreter.Interpreter(model_path=str(path), num_threads=threads)
        )
    except Exception as error:  # Its errors share no narrower base.
        raise BundleError(f"{path.name}: cannot be opened: {_first_line(error)}") from error
