"""The curve of a stage: points of its training state, and the same for TensorBoard."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from toolchain.distill.checkpointing import TrainingState
from toolchain.distill.records import StageRun

__all__ = ["Curve"]

_POINTS = 100


class Curve:
    """Adds a point every hundredth of the stage: means over the steps since the last."""

    def __init__(self, run: StageRun) -> None:
        self._steps = run.steps
        self._writer = _tensorboard(run.tensorboard)

    def take(self, state: TrainingState, value: float, lr: float, raw: Mapping[str, float]) -> None:
        """Take the loss of the step that `state` ends with, and its terms' values."""
        step, window = state.step, state.window
        for name, part in {"": value, "steps": 1.0, **raw}.items():
            window[name] = window.get(name, 0.0) + part
        if step % max(1, self._steps // _POINTS) and step != self._steps:
            return
        # A single step's loss is mostly the luck of its batch: points are means.
        count = window["steps"]
        parts = {name: window[name] / count for name in raw}
        mean = window[""] / count
        state.points.append({"step": step, "loss": mean, "lr": lr, "parts": parts})
        window.clear()
        self.show("train/loss", mean, step)
        self.show("train/lr", lr, step)
        for name, part in parts.items():
            self.show(f"train/{name}", part, step)

    def show(self, name: str, value: float, step: int) -> None:
        """Give a figure to TensorBoard, where it was asked for."""
        if self._writer:
            self._writer.add_scalar(name, value, step)

    def close(self) -> None:
        """Write what is left."""
        if self._writer:
            self._writer.close()


def _tensorboard(folder: Path | None) -> Any:
    if folder is None:
        return None
    # Imported on request: it is an extra.
    from torch.utils.tensorboard import SummaryWriter

    return SummaryWriter(str(folder))
