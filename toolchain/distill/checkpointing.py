"""A training state in one file: written aside, synced, renamed; tensors as safetensors, no pickle.

It holds weights, projections, optimiser moments, random state and what was logged. The data order
needs no state of its own: it follows from the seed and the step. Tensors go to the file one after
another, so that storing takes no memory but that of one.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from toolchain.artifact import writing_atomic
from toolchain.distill.engine import Moments, Weights
from toolchain.distill.tensorfile import TensorFile

__all__ = [
    "TrainingState",
    "flat",
    "moments_of",
    "restore",
    "restore_random",
    "store",
    "tensors_of",
]


@dataclass
class TrainingState:
    """Where a run stands, beside its tensors; `window` sums losses since the last point."""

    step: int = 0
    best_metric: float | None = None
    best_step: int = 0
    points: list[dict[str, Any]] = field(default_factory=list)
    evals: list[dict[str, Any]] = field(default_factory=list)
    gradient_shares: list[dict[str, Any]] = field(default_factory=list)
    window: dict[str, float] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)
    samples: int = 0


def flat(modules: Mapping[str, nn.Module]) -> dict[str, Tensor]:
    """Return the state of modules, each name behind its module's."""
    return {
        f"{prefix}.{name}": tensor
        for prefix, module in modules.items()
        for name, tensor in module.state_dict().items()
    }


def store(
    path: Path, state: TrainingState, weights: Weights, moments: Moments = (), *, tensors: int
) -> None:
    """Write the state; there are `tensors` weights, or fewer.

    Raises ResourceError when the disk is full; the old file then stays.
    """
    with writing_atomic(path) as raw:
        # A parameter has at most four tensors of its optimiser beside it, a GPU one of chances.
        most = 5 * tensors + 64
        file = TensorFile(raw, most=most, state=json.dumps(vars(state)))
        for name, tensor in weights:
            file.add(name, tensor)
        for index, own in moments:
            for name, value in own.items():
                file.add(f"optimizer.{index}.{name}", torch.as_tensor(value))
        file.add("rng.cpu", torch.get_rng_state())
        if torch.cuda.is_available():
            for i, device_state in enumerate(torch.cuda.get_rng_state_all()):
                file.add(f"rng.cuda.{i}", device_state)
        file.end()


def restore(path: Path, modules: Mapping[str, nn.Module]) -> TrainingState | None:
    """Read the state into the modules; None when there is none to read."""
    if not path.is_file():
        return None
    try:
        with safe_open(path, framework="pt") as file:
            state = TrainingState(**json.loads(file.metadata()["state"]))
            names = [n for n in file.keys() if not n.startswith("optimizer.")]  # noqa: SIM118
            tensors = {name: file.get_tensor(name) for name in names}
    except (SafetensorError, OSError, KeyError, ValueError, TypeError):
        # A foreign or damaged file cannot come from our own atomic write: start over.
        return None
    for prefix, module in modules.items():
        start = f"{prefix}."
        part = {n.removeprefix(start): t for n, t in tensors.items() if n.startswith(start)}
        module.load_state_dict(part, strict=True)
    return state


def restore_random(path: Path) -> None:
    """Go on with the random numbers of a checkpoint."""
    with safe_open(path, framework="pt") as file:
        torch.set_rng_state(file.get_tensor("rng.cpu"))
        names = set(file.keys())
        for i in range(torch.cuda.device_count()):
            if f"rng.cuda.{i}" in names:
                torch.cuda.set_rng_state(file.get_tensor(f"rng.cuda.{i}"), i)


def moments_of(path: Path) -> Moments:
    """Yield the optimiser's state in a checkpoint, one parameter's at a time."""
    with safe_open(path, framework="pt") as file:
        keys: dict[int, list[str]] = {}
        for name in file.keys():  # noqa: SIM118
            if name.startswith("optimizer."):
                keys.setdefault(int(name.split(".")[1]), []).append(name)
        for index in sorted(keys):
            yield index, {name.split(".", 2)[2]: file.get_tensor(name) for name in keys[index]}


def tensors_of(path: Path, prefix: str) -> dict[str, Tensor]:
    """Return the tensors one module left in a checkpoint; empty when there is none to read."""
    start = f"{prefix}."
    try:
        with safe_open(path, framework="pt") as file:
            names = [name for name in file.keys() if name.startswith(start)]  # noqa: SIM118
            return {name.removeprefix(start): file.get_tensor(name) for name in names}
    except (SafetensorError, OSError):
        return {}
