"""The only training loop: fine-tuning, distillation and the baseline are settings of it.

accelerate carries devices, mixed precision and ranks; what is decided here is the order of the
data, the global means, when to evaluate, what is kept, and how a run goes on after a kill.

Every rank sees a slice of one global batch. Denominators are summed over ranks before the backward
pass and gradients are summed after it: the result is the gradient of one masked mean over the
global batch.
"""

import math
import signal
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from types import FrameType
from typing import Any, Literal

import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from torch import nn
from transformers import PreTrainedModel

from toolchain import metrics
from toolchain.data.batching import Batch, Rows, collate, epoch_batches
from toolchain.distill.capture import Recorder
from toolchain.distill.checkpointing import TrainingState, restore, store
from toolchain.distill.distiller import Distiller, Loss
from toolchain.distill.evaluate import logits_of_rows
from toolchain.distill.teachers import OnlineTeacher
from toolchain.distill.term import BoundTerm
from toolchain.errors import StepError
from toolchain.models.family import Family
from toolchain.progress import Progress
from toolchain.spec import ModelSpec

__all__ = ["StageRun", "Trained", "TrainingModel", "train"]

_POINTS = 100
Clock = Literal["data", "teacher", "student", "evaluation"]


@dataclass(frozen=True, kw_only=True)
class StageRun:
    """How one stage is trained.

    `warmup` is a part of the steps, `clip` a gradient norm. With `keep_best` the weights of the
    best evaluation on dev are kept, else the last ones.
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
class TrainingModel:
    """A model with what is needed to read its insides."""

    model: PreTrainedModel
    family: Family
    spec: ModelSpec


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

    def as_json(self) -> dict[str, Any]:
        """Return the stage's record for the artifact's facts."""
        record = asdict(self)
        run = record.pop("run")
        record["stage"] = run["name"]
        record["steps"] = run["steps"]
        record["lr"] = run["lr"]
        record["batch_size"] = run["batch_size"]
        return record


def train(
    student: TrainingModel,
    teacher: TrainingModel | None,
    terms: tuple[BoundTerm, ...],
    rows: Rows,
    dev: Rows,
    run: StageRun,
    work: Path,
    progress: Progress,
) -> Trained:
    """Train the student in place; `work` holds the checkpoint a killed run goes on from.

    Raises StepError when a loss is not finite, naming the step, the terms and the rows.
    """
    loop = _Loop(student, teacher, terms, rows, dev, run, work, progress)
    try:
        return loop.run_all()
    finally:
        loop.close()


class _Loop:
    """One stage in progress."""

    def __init__(
        self,
        student: TrainingModel,
        teacher: TrainingModel | None,
        terms: tuple[BoundTerm, ...],
        rows: Rows,
        dev: Rows,
        run: StageRun,
        work: Path,
        progress: Progress,
    ) -> None:
        # Another precision than the last run's of this process would be refused otherwise.
        AcceleratorState._reset_state()
        on_cpu = not torch.cuda.is_available()
        self.accelerator = Accelerator(mixed_precision="bf16" if run.bf16 else "no", cpu=on_cpu)
        device = self.accelerator.device
        torch.manual_seed(run.seed)
        self.student, self.terms, self.rows, self.dev = student, terms, rows, dev
        self.run, self.work, self.progress = run, work, progress
        distiller = Distiller(terms).to(device)
        self.modules: dict[str, nn.Module] = {"student": student.model.to(device)}
        self.modules["distiller"] = distiller
        # Mixed precision and placement, but no data-parallel wrapper: a loss on hidden states
        # leaves parameters above them without gradients, which the wrapper takes for an error.
        self.model = self.accelerator.prepare_model(student.model, evaluation_mode=True)
        self.distiller = distiller
        self.optimizer = self.accelerator.prepare_optimizer(self._optimizer())
        asked = frozenset[Any]().union(*(bound.requests("student") for bound in terms))
        self.recorder = Recorder(student.model, student.family, student.spec, asked)
        self.teacher = None
        wanted = frozenset[Any]().union(*(bound.requests("teacher") for bound in terms))
        if wanted:
            assert teacher is not None, "these terms need a teacher"
            self.teacher = OnlineTeacher(
                teacher.model, teacher.family, teacher.spec, wanted, device=device, bf16=run.bf16
            )
        self.state = TrainingState()
        self.writer = _tensorboard(run.tensorboard)

    def close(self) -> None:
        """Remove the hooks and give the model back as it came."""
        if self.teacher:
            self.teacher.close()
        self.accelerator.unwrap_model(self.model, keep_fp32_wrapper=False)
        if self.writer:
            self.writer.close()

    def run_all(self) -> Trained:
        """Train from the last checkpoint to the end."""
        run, checkpoint = self.run, self.work / "checkpoint.safetensors"
        self.work.mkdir(parents=True, exist_ok=True)
        found = restore(checkpoint, self.modules, self.optimizer.optimizer)
        if found:
            self.state = found
            self.progress.say(f"{run.name}: going on from step {found.step} of {run.steps}")
        saved = time.monotonic()
        with self.recorder, _stop_between_steps() as stopping:
            self.model.train()
            for step, chosen in self._order():
                self._step(step, chosen)
                if self.state.step == run.steps or run.evaluates_after(self.state.step):
                    self._evaluate()
                overdue = time.monotonic() - saved > run.checkpoint_seconds
                if stopping.is_set() or overdue:
                    self._store(checkpoint)
                    saved = time.monotonic()
                if stopping.is_set():
                    raise KeyboardInterrupt
        self._store(checkpoint)
        if run.keep_best:
            restore(self.work / "best.safetensors", {"student": self.modules["student"]})
        self.student.model.eval()
        return self._trained()

    def _order(self) -> Iterator[tuple[int, list[int]]]:
        run, per_epoch = self.run, math.ceil(len(self.rows) / self.run.batch_size)
        lengths = self.rows.lengths
        epoch, batches = -1, list[list[int]]()
        for step in range(self.state.step, run.steps):
            if step // per_epoch != epoch:
                epoch = step // per_epoch
                batches = epoch_batches(lengths, run.batch_size, seed=run.seed, epoch=epoch)
            yield step, batches[step % per_epoch]

    def _step(self, step: int, chosen: list[int]) -> None:
        run, accelerator = self.run, self.accelerator
        with self._timed("data"):
            mine = chosen[accelerator.process_index :: accelerator.num_processes]
            batch = collate(self.rows, mine).to(accelerator.device)
        with self._timed("teacher"):
            known = self.teacher.captures(batch) if self.teacher else None
        with self._timed("student"):
            lr = run.lr_at(step)
            for group in self.optimizer.param_groups:
                group["lr"] = lr
            student = self.recorder.take(self.model(**batch.inputs).logits)
            denominators = self._denominators(batch)
            loss: Loss = self.distiller(
                student, known, batch.labels_B, batch.mask_BN, denominators, step / run.steps
            )
            value = self._checked(loss, step, batch)
            accelerator.backward(loss.total)
            parameters = [p for group in self.optimizer.param_groups for p in group["params"]]
            self._sum_gradients(parameters)
            accelerator.clip_grad_norm_(parameters, run.clip)
            self.optimizer.step()
            self.optimizer.zero_grad()
        self.state.step = step + 1
        self.state.samples += len(chosen)
        self._log(value, lr, loss)

    def _sum_gradients(self, parameters: list[nn.Parameter]) -> None:
        """Sum gradients over ranks; which parameters have one is the same on all of them."""
        if self.accelerator.num_processes > 1:
            for gradient in (p.grad for p in parameters if p.grad is not None):
                gradient.copy_(self.accelerator.reduce(gradient, "sum"))

    def _denominators(self, batch: Batch) -> dict[str, float]:
        local = {b.term.name: b.term.reduction.denominator(batch.mask_BN) for b in self.terms}
        if self.accelerator.num_processes == 1:
            return local
        counts = torch.tensor(list(local.values()), device=self.accelerator.device)
        summed = self.accelerator.reduce(counts.double(), "sum")
        return dict(zip(local, summed.tolist(), strict=True))

    def _checked(self, loss: Loss, step: int, batch: Batch) -> float:
        value = float(loss.total.detach())
        if math.isfinite(value):
            return value
        parts = ", ".join(f"{name} {float(part):g}" for name, part in loss.parts.items())
        first = ", ".join(map(str, batch.rows[:8]))
        raise StepError(
            f"{self.run.name}: the loss is {value} at step {step} ({parts}), rows {first} ...",
            "the last good checkpoint is kept; lower the learning rate or use fp32",
        )

    def _optimizer(self) -> torch.optim.Optimizer:
        named = [
            (name, p)
            for module in (self.model, self.distiller)
            for name, p in module.named_parameters()
            if p.requires_grad
        ]
        groups = [
            {"params": [p for _, p in named if p.ndim >= 2], "weight_decay": self.run.weight_decay},
            # Norms and biases are not pulled towards zero.
            {"params": [p for _, p in named if p.ndim < 2], "weight_decay": 0.0},
        ]
        return torch.optim.AdamW(groups, lr=self.run.lr, fused=True)

    def _evaluate(self) -> None:
        if not self.run.keep_best:
            return
        with self._timed("evaluation"):
            logits = logits_of_rows(self.student.model, self.dev, bf16=self.run.bf16)
            value = metrics.score(self.run.metric, logits, self.dev.labels)
        self.state.evals.append({"step": self.state.step, "metric": value})
        self.progress.event("eval", run=self.run.name, step=self.state.step, metric=value)
        if self.writer:
            self.writer.add_scalar(f"dev/{self.run.metric}", value, self.state.step)
        if self.state.best_metric is None or value > self.state.best_metric:
            self.state.best_metric, self.state.best_step = value, self.state.step
            self._store(self.work / "best.safetensors", weights_only=True)

    def _store(self, path: Path, *, weights_only: bool = False) -> None:
        if not self.accelerator.is_main_process:
            return
        if weights_only:
            store(path, TrainingState(), {"student": self.modules["student"]})
        else:
            store(path, self.state, self.modules, self.optimizer.optimizer)

    def _log(self, value: float, lr: float, loss: Loss) -> None:
        run, step = self.run, self.state.step
        every = max(1, run.steps // _POINTS)
        spent = sum(self.state.seconds.values())
        window = self.state.window
        seen = {"": value, "steps": 1.0, **{name: float(p) for name, p in loss.parts.items()}}
        for name, part in seen.items():
            window[name] = window.get(name, 0.0) + part
        if step % every == 0 or step == run.steps:
            # A single step's loss is mostly the luck of its batch: points are means.
            count = window["steps"]
            parts = {name: window[name] / count for name in loss.parts}
            mean = window[""] / count
            self.state.points.append({"step": step, "loss": mean, "lr": lr, "parts": parts})
            window.clear()
            if self.writer:
                self.writer.add_scalar("train/loss", mean, step)
                self.writer.add_scalar("train/lr", lr, step)
                for name, part in parts.items():
                    self.writer.add_scalar(f"train/{name}", part, step)
        self.progress.advance(
            run.name,
            step,
            run.steps,
            loss=round(value, 4),
            samples_per_s=round(self.state.samples / spent) if spent else 0,
            best=self.state.best_metric,
        )

    @contextmanager
    def _timed(self, clock: Clock) -> Iterator[None]:
        start = time.perf_counter()
        yield
        seconds = self.state.seconds
        seconds[clock] = seconds.get(clock, 0.0) + time.perf_counter() - start

    def _trained(self) -> Trained:
        seconds = self.state.seconds
        spent = sum(seconds.values())
        training = spent - seconds.get("evaluation", 0.0)
        return Trained(
            run=self.run,
            points=self.state.points,
            evals=self.state.evals,
            best_metric=self.state.best_metric,
            best_step=self.state.best_step,
            samples_per_s=self.state.samples / training if training else 0.0,
            shares={name: value / spent for name, value in seconds.items()},
        )


def _tensorboard(folder: Path | None) -> Any:
    if folder is None:
        return None
    # Imported on request: it is an extra.
    from torch.utils.tensorboard import SummaryWriter

    return SummaryWriter(str(folder))


@contextmanager
def _stop_between_steps() -> Iterator[threading.Event]:
    """Turn the first Ctrl-C into a flag, so that no step is cut in two; the second one raises."""
    stopping = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield stopping
        return

    def on_signal(number: int, frame: FrameType | None) -> None:  # noqa: ARG001
        if stopping.is_set():
            raise KeyboardInterrupt
        stopping.set()

    before = signal.signal(signal.SIGINT, on_signal)
    try:
        yield stopping
    finally:
        signal.signal(signal.SIGINT, before)
