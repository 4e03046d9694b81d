"""What a graph answers to texts, and what flows through it while it does: for calibration.

Shapes: T tokens of all texts together, K features, C classes.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import onnx
import onnxruntime as ort
from numpy.typing import NDArray

from toolchain.errors import UsageError
from toolchain.optimize.opened import opened
from toolchain.optimize.precision import Calibration

__all__ = ["Asked", "Flow", "Texts", "answers", "closeness", "flows", "split"]

Array = NDArray[np.float32]
Feed = Mapping[str, NDArray[np.generic]]

# Fewer say little about what is common; said, not refused.
_FEW = 32
_HELD_BACK = 4
# Tokens of one text whose every value is kept, evenly spaced.
_KEPT_TOKENS = 16


@dataclass(frozen=True, kw_only=True)
class Texts:
    """Calibration texts: those to read ranges from, and those held back to judge by."""

    read: Calibration
    held: Calibration
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Flow:
    """What went through one value of the graph: a feature's extremes (0 among them), a sample."""

    lows_K: Array
    highs_K: Array
    sample_TK: Array

    @property
    def low(self) -> float:
        """The least number of all."""
        return float(self.lows_K.min())

    @property
    def high(self) -> float:
        """The largest number of all."""
        return float(self.highs_K.max())

    @property
    def peaks_K(self) -> Array:
        """The largest size of each feature."""
        return np.maximum(-self.lows_K, self.highs_K)

    def divided(self, scale_K: Array) -> "Flow":
        """Return the flow of the value divided by positive scales."""
        return Flow(
            lows_K=self.lows_K / scale_K,
            highs_K=self.highs_K / scale_K,
            sample_TK=self.sample_TK / scale_K,
        )


def split(calibration: Calibration, name: str) -> Texts:
    """Hold back every fourth text.

    Raises UsageError for fewer than two: nothing could be judged. Few are told about.
    """
    count = len(calibration)
    if count < 2:
        found = "none" if count == 0 else "one, which leaves none to judge by"
        raise UsageError(
            f"precision {name} looks at texts of the task: expected 2 or more, found {found}",
            f"give {_FEW} or more that are like those it will read",
        )
    held = [row for number, row in enumerate(calibration) if number % _HELD_BACK == 1]
    read = [row for number, row in enumerate(calibration) if number % _HELD_BACK != 1]
    notes = (f"calibrated on {count} texts only: {_FEW} or more say what is common",)
    return Texts(read=read, held=held, notes=notes if count < _FEW else ())


class Asked:
    """A graph opened once and asked many times."""

    def __init__(self, proto: onnx.ModelProto) -> None:
        self._session = opened(proto)
        names = [value.name for value in proto.graph.output]
        # Of a question two outputs, its answer's begin and end, are one.
        both = [name for name in names if name in ("start_logits", "end_logits")]
        self._outputs = ["logits"] if "logits" in names else both or names[:1]

    def answers(self, rows: Calibration, more: Feed | None = None) -> Array:
        """Return the logits of every text, (T, C) or (texts, C); `more` are further inputs."""
        feeds = _feeds(self._session, rows, more or {})
        answered = [self._session.run(self._outputs, feed) for feed in feeds]
        found = [np.stack(a, axis=-1) if len(a) > 1 else np.asarray(a[0]) for a in answered]
        return np.concatenate([logits.reshape(-1, logits.shape[-1]) for logits in found])


def answers(proto: onnx.ModelProto, rows: Calibration) -> Array:
    """Return the logits of every text, (T, C) or (texts, C)."""
    return Asked(proto).answers(rows)


def closeness(ours: Array, theirs: Array) -> float:
    """Return the cosine of all logits taken as one vector, as the gate does; 0 for no numbers."""
    if not np.isfinite(ours).all():
        return 0.0
    mine, other = ours.astype(np.float64).ravel(), theirs.astype(np.float64).ravel()
    norms = float(np.linalg.norm(mine) * np.linalg.norm(other))
    return float(mine @ other) / norms if norms else 0.0


def flows(proto: onnx.ModelProto, names: Sequence[str], rows: Calibration) -> dict[str, Flow]:
    """Return what goes through each of these float values (..., K) over all texts."""
    watched = onnx.ModelProto()
    watched.CopyFrom(proto)
    own = {value.name for value in proto.graph.output}
    watched.graph.output.extend(
        onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, None)
        for name in names
        if name not in own
    )
    session = opened(watched)
    parts: dict[str, list[tuple[Array, Array, Array]]] = {name: [] for name in names}
    for feed in _feeds(session, rows, {}):
        for name, values in zip(names, session.run(list(names), feed), strict=True):
            array = np.asarray(values)
            flat = array.reshape(-1, array.shape[-1])
            some = flat[:: max(1, len(flat) // _KEPT_TOKENS)].copy()
            parts[name].append((flat.min(axis=0), flat.max(axis=0), some))
    return {
        name: Flow(
            lows_K=np.min([low for low, _, _ in found], axis=0, initial=0.0),
            highs_K=np.max([high for _, high, _ in found], axis=0, initial=0.0),
            sample_TK=np.concatenate([some for _, _, some in found]),
        )
        for name, found in parts.items()
    }


def _feeds(session: ort.InferenceSession, rows: Calibration, more: Feed) -> Iterable[Feed]:
    """Return each text as the graph reads it: a decoder as a prompt with nothing before it."""
    asked = session.get_inputs()
    for row in rows:
        mask = row.get("attention_mask", np.ones_like(row["input_ids"]))
        known: dict[str, NDArray[np.generic]] = {
            "position_ids": (mask.cumsum(axis=1) - 1).clip(min=0),
            "token_type_ids": np.zeros_like(mask),
            **row,
            "attention_mask": mask,
            **more,
        }
        for node in asked:
            if node.name not in known:
                shape = (len(mask), node.shape[1], 0, node.shape[3])
                known[node.name] = np.zeros(shape, np.float32)
        yield {node.name: known[node.name] for node in asked}
