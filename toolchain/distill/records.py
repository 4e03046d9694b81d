"""How one stage is trained, and what is kept of it."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from toolchain.distill.aggregation import Aggregation
from toolchain.distill.operators import Operator
from toolchain.distill.surgery import Surgery

__all__ = ["PLAIN", "Parts", "StageRun", "Trained"]


@dataclass(frozen=True, kw_only=True)
class Parts:
    """What a stage has beside its terms: what a composition's exclusive slots hold."""

    aggregation: Aggregation | None = None
    operators: tuple[Operator, ...] = ()
    surgery: Surgery | None = None
    balance: bool = False

    def as_json(self) -> dict[str, Any]:
        """Return what is there, for plans and digests."""
        slots: dict[str, object] = {"aggregation": self.aggregation, "surgery": self.surgery}
        named: dict[str, Any] = {name: repr(part) for name, part in slots.items() if part}
        if self.operators:
            named["operators"] = [repr(operator) for operator in self.operators]
        return {**named, "balance": "initial"} if self.balance else named


PLAIN = Parts()
"""A stage that is nothing but its terms."""


@dataclass(frozen=True, kw_only=True)
class StageRun:
    """How one stage is trained.

    `warmup` is a part of the steps, `clip` a gradient norm. With `keep_best` the weights of the
    best evaluation on dev are kept, else the last ones. `before` are the checkpoints of the stages
    that ran earlier, in order: named projections, filters and heads go on from them.
    """

    name: str
    steps: int
    batch_size: int
    lr: float
    warmup: float
    weight_decay: float
    clip: float
    evals: int
    keep_best: bool
    bf16: bool
    seed: int
    metric: str
    checkpoint_seconds: float = 30.0
    tensorboard: Path | None = None
    before: tuple[Path, ...] = ()

    def lr_at(self, step: int) -> float:
        """Return the learning rate: a linear warm-up, then a straight line to zero."""
        warm = max(1, round(self.warmup * self.steps))
        if step < warm:
            return self.lr * (step + 1) / warm
        return self.lr * (self.steps - step) / max(1, self.steps - warm)

    def evaluates_after(self, step: int) -> bool:
        """Return whether dev is evaluated after this many steps; always at the end."""
        if not self.keep_best:
            return False
        due = {round(i * self.steps / self.evals) for i in range(1, self.evals + 1)}
        return step in due or step == self.steps


@dataclass(frozen=True, kw_only=True)
class Trained:
    """What a stage did: curve, evaluations on dev, shares of its time, samples per second."""

    run: StageRun
    points: list[dict[str, Any]]
    evals: list[dict[str, Any]]
    best_metric: float | None
    best_step: int
    samples_per_s: float
    shares: Mapping[str, float]
    gradient_shares: list[dict[str, Any]]

    def as_json(self) -> dict[str, Any]:
        """Return the stage's record for the artifact's facts."""
        record = asdict(self)
        run = record.pop("run")
        record["stage"] = run["name"]
        record["steps"] = run["steps"]
        record["lr"] = run["lr"]
        record["batch_size"] = run["batch_size"]
        return record
