"""The only training loop: fine-tuning, distillation and the baseline are settings of it.

accelerate carries devices, mixed precision and ranks; what is decided here is the order of the
data, the global means, when to evaluate, what is kept, and how a run goes on after a kill.

Every rank sees a slice of one global batch. Denominators are summed over ranks before the backward
pass and gradients are summed after it: the result is the gradient of one masked mean over the
global batch.
"""

import math
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from itertools import chain
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from torch import Tensor, nn

from toolchain import metrics
from toolchain.data.batching import Batch, Rows, collate, epoch_batches
from toolchain.distill.capture import Recorder, sparing
from toolchain.distill.checkpointing import (
    TrainingState,
    flat,
    moments_of,
    restore,
    restore_random,
    store,
    tensors_of,
)
from toolchain.distill.context import Moment
from toolchain.distill.curve import Curve
from toolchain.distill.distiller import Distiller
from toolchain.distill.engine import Holding, Whole
from toolchain.distill.evaluate import Answers, evaluate
from toolchain.distill.extract import Request
from toolchain.distill.operators import Judge
from toolchain.distill.passes import StepPasses
from toolchain.distill.products import quick_products
from toolchain.distill.records import Parts, StageRun, Trained
from toolchain.distill.seen import Seen
from toolchain.distill.shares import gradient_shares, warning
from toolchain.distill.stopping import stop_between_steps
from toolchain.distill.surgery import Operation, Surgery
from toolchain.distill.teachers import Readable, Takeable, Teacher, TrainingModel
from toolchain.distill.term import BoundTerm
from toolchain.errors import StepError
from toolchain.progress import Progress

__all__ = ["train"]

# Each costs a backward pass per term: eight in a run, and never two within so many steps.
_SHARE_READINGS, _SHARE_GAP = 8, 50


def train(
    student: TrainingModel,
    teachers: Sequence[Readable],
    terms: tuple[BoundTerm, ...],
    parts: Parts,
    rows: Rows,
    dev: Rows,
    run: StageRun,
    work: Path,
    progress: Progress,
    *,
    holding: Holding = Whole,
) -> Trained:
    """Train the student in place; `work` holds the checkpoint a killed run goes on from.

    `holding` says where its weights, gradients and moments lie meanwhile.

    Raises StepError when a loss is not finite, naming the step, the terms and the rows.
    """
    loop = _Loop(student, teachers, terms, parts, rows, dev, run, work, progress, holding)
    try:
        return loop.run_all()
    finally:
        loop.close()


class _Loop:
    """One stage in progress."""

    def __init__(
        self,
        student: TrainingModel,
        teachers: Sequence[Readable],
        terms: tuple[BoundTerm, ...],
        parts: Parts,
        rows: Rows,
        dev: Rows,
        run: StageRun,
        work: Path,
        progress: Progress,
        holding: Holding,
    ) -> None:
        # Another precision than the last run's of this process would be refused otherwise.
        AcceleratorState._reset_state()
        on_cpu = not torch.cuda.is_available()
        self.bf16 = run.bf16 and not (parts.surgery and parts.surgery.exact)
        self.accelerator = Accelerator(mixed_precision="bf16" if self.bf16 else "no", cpu=on_cpu)
        device = self.accelerator.device
        torch.manual_seed(run.seed)
        self.student, self.terms, self.rows, self.dev = student, terms, rows, dev
        self.run, self.work, self.progress = run, work, progress
        self.surgery = self._operated(parts.surgery, teachers, device) if parts.surgery else None
        self.distiller = Distiller(
            terms,
            aggregation=parts.aggregation,
            balance=parts.balance,
        ).to(device)
        # The main process may still be writing what the stage before learned.
        self.accelerator.wait_for_everyone()
        for checkpoint in run.before:
            self.distiller.adopt(tensors_of(checkpoint, "distiller"))
        self.modules: dict[str, nn.Module] = {"student": student.model.to(device)}
        if self.surgery and self.surgery.module:
            self.modules["surgery"] = self.surgery.module.to(device)
        self.kept = dict(self.modules)
        self.modules["distiller"] = self.distiller
        found = {op.key: op.module() for op in parts.operators}
        self.memories = nn.ModuleDict({key: own for key, own in found.items() if own is not None})
        self.modules["operators"] = self.memories
        self.checkpoint = work / "checkpoint.safetensors"
        # Before the student is taken into pieces.
        self.found = restore(self.checkpoint, self.modules)
        self.state = self.found or TrainingState()
        self._same_everywhere(self.state.step)
        self.engine = holding(self.accelerator, self.modules, run)
        self.asked = (
            _union(b.requests("student") for b in terms)
            | _union(op.requests(student.spec) for op in parts.operators)
            | (parts.aggregation.requests() if parts.aggregation else frozenset())
        )
        # Of a student in pieces all ranks run the whole of it, and a surgery may read any of it.
        self.spared = self.engine.in_place and not self.surgery
        self.recorder = Recorder(
            student.model,
            student.family,
            student.spec,
            self.asked,
            whole=self.engine.whole,
            stops=self.spared,
        )
        self.teachers = self._readers(teachers, parts, device)
        self.passes = StepPasses(
            student.model,
            self.recorder,
            student.spec,
            self.teachers,
            self.distiller,
            parts.operators,
            self._timed,
            student.vocabulary,
            self.surgery,
            dict(self.memories.items()),
            abreast=not self.engine.in_place,
            # Not a model that accelerate prepared: it wraps one only once, and the student's next
            # stage would train without; and its data-parallel wrapper takes parameters above a loss
            # on hidden states, which have no gradients, for an error.
            autocast=self.accelerator.autocast,
        )
        self.told = False
        self.curve = Curve(run)

    def _operated(
        self, surgery: Surgery, teachers: Sequence[Readable], device: torch.device
    ) -> Operation:
        """Begin a surgery, with student and teachers on the run's device."""
        torch.nn.Module.to(self.student.model, device)
        if not surgery.takes_modules:
            return surgery.begin(self.student, teachers)
        taken = [t.taken(device) for t in teachers if isinstance(t, Takeable)]
        assert len(taken) == len(teachers), "the plan refuses that"
        return surgery.begin(self.student, taken)

    def _readers(
        self, teachers: Sequence[Readable], parts: Parts, device: torch.device
    ) -> list[Teacher]:
        """Return the teachers whose forward passes are read; none for terms on labels alone."""
        asked = [
            _union(b.requests("teacher") for b in self.terms if b.teacher == index)
            for index in range(len(teachers))
        ]
        if not any(asked):
            return []
        again = [op for op in parts.operators if op.reruns]
        return [
            teacher.open(
                requests | _union(op.requests(teacher.spec) for op in again),
                device=device,
                bf16=self.run.bf16,
            )
            for teacher, requests in zip(teachers, asked, strict=True)
        ]

    def close(self) -> None:
        """Remove the hooks and give the model back as it came."""
        for teacher in self.teachers:
            teacher.close()
        self.engine.close()
        self.curve.close()

    def run_all(self) -> Trained:
        """Train from the last checkpoint to the end."""
        run, found = self.run, self.found
        self.work.mkdir(parents=True, exist_ok=True)
        if found:
            self.engine.resume(moments_of(self.checkpoint))
            restore_random(self.checkpoint)
            self.progress.say(f"{run.name}: going on from step {found.step} of {run.steps}")
        saved = time.monotonic()
        with self.recorder, self._sparing(), self._quick(), stop_between_steps() as stopping:
            if not found:
                self._judged()
            self.student.model.train()
            for step, chosen in self._order():
                self._step(step, chosen)
                if self.state.step == run.steps or run.evaluates_after(self.state.step):
                    self._evaluate()
                overdue = time.monotonic() - saved > run.checkpoint_seconds
                stop, save = self._agreed(stopping.is_set(), overdue)
                if stop or save:
                    self._store(self.checkpoint)
                    saved = time.monotonic()
                if stop:
                    raise KeyboardInterrupt
        self._store(self.checkpoint)
        self.engine.close()
        if run.keep_best:
            # The main process may still be writing it.
            self.accelerator.wait_for_everyone()
            restore(self.work / "best.safetensors", self.kept)
        self.student.model.eval()
        if self.surgery:
            self.surgery.heal()
        return self._trained()

    def _sparing(self) -> AbstractContextManager[None]:
        """Compute no more of the last block than is read, of a student that lies here as it is."""
        student = self.student
        if not self.spared:
            return nullcontext()
        return sparing(student.model, student.family, student.spec, self.asked)

    def _quick(self) -> AbstractContextManager[None]:
        """Multiply float32 as fast as can be where weights stay: those in pieces come and go.

        A surgery may hold modules of a teacher in pieces.
        """
        student = [self.student.model] if self.engine.in_place else []
        return quick_products(*student, self.distiller)

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
        per_epoch = math.ceil(len(self.rows) / run.batch_size)
        moment = Moment(step=step, steps=run.steps, epoch=step // per_epoch, seed=run.seed)
        with self._timed("data"):
            mine = chosen[accelerator.process_index :: accelerator.num_processes]
            # The last batch of an epoch may have fewer rows than there are ranks.
            weight = 1.0 if mine else 0.0
            batch = collate(self.rows, mine or chosen[:1], step=step).to(accelerator.device)
        if self.surgery:
            self.surgery.before_step(moment)
        batch = self.passes.prepared(batch, moment)
        seen = self.passes.seen(batch, moment)
        with self._timed("student"):
            lr = run.lr_at(step)
            own = self.surgery.rate(moment) if self.surgery else None
            counts = self.passes.denominators(seen)
            counts = self._summed({name: weight * count for name, count in counts.items()})
            values = {n: weight * v for n, v in self.distiller(seen, counts).items()}
            raw = self._summed({name: float(value.detach()) for name, value in values.items()})
            self._check(raw, step, batch)
            self.distiller.observe(raw)
            weighted = self.distiller.weighted(values, moment)
            penalty = self.surgery.penalty(moment) if self.surgery else None
            if penalty is not None:
                weighted["surgery"] = penalty / accelerator.num_processes
            if step % max(_SHARE_GAP, run.steps // _SHARE_READINGS) == 0:
                self._read_shares(weighted)
            total = torch.stack(list(weighted.values())).sum()
            self.engine.backward(total)
            self.engine.step(lr, own, run.clip)
        raw |= self._learned_from(seen["plain"], batch, lr)
        self.state.step = step + 1
        self.state.samples += len(chosen)
        self._log(sum(self._summed({"": float(total.detach())}).values()), lr, raw)

    def _learned_from(self, plain: Seen, batch: Batch, lr: float) -> dict[str, float]:
        """Let an aggregation that learns see what the update did; return its mean reward.

        Nothing else has a gradient here, so the optimiser's second step is the policy's alone.
        """
        aggregation = self.distiller.aggregation
        if aggregation is None or not aggregation.learns:
            return {}
        after = self.passes.again(batch)
        with self._timed("student"):
            lesson = self.distiller.lesson(plain, after)
            assert lesson is not None
            local = {"rows": float(len(lesson.reward_P)), "reward": float(lesson.reward_P.sum())}
            summed = self._summed(local)
            if lesson.loss_P is not None:
                self.engine.backward(lesson.loss_P.sum() / summed["rows"], student=False)
                self.engine.step(lr, None, self.run.clip)
            reward = summed["reward"] / summed["rows"]
            self.distiller.taught(reward)
        return {f"{aggregation.key}/reward": reward}

    def _same_everywhere(self, step: int) -> None:
        """Raise StepError unless all ranks go on from the same step."""
        ranks = self.accelerator.num_processes
        if self._summed({"": float(step)})[""] != ranks * step:
            raise StepError(
                f"{self.work}: processes find different checkpoints in it (step {step} here)",
                "give an output folder that all of them share",
            )

    def _agreed(self, stop: bool, save: bool) -> tuple[bool, bool]:
        """Return whether any rank was told to stop, and whether the first one wants to save."""
        main = self.accelerator.is_main_process
        agreed = self._summed({"stop": float(stop), "save": float(save and main)})
        return agreed["stop"] > 0, agreed["save"] > 0

    def _summed(self, local: Mapping[str, float]) -> dict[str, float]:
        """Return the values summed over ranks."""
        if self.accelerator.num_processes == 1:
            return dict(local)
        counts = torch.tensor(
            list(local.values()), device=self.accelerator.device, dtype=torch.float64
        )
        summed = self.accelerator.reduce(counts, "sum")
        return dict(zip(local, summed.tolist(), strict=True))

    def _check(self, raw: Mapping[str, float], step: int, batch: Batch) -> None:
        broken = [name for name, value in raw.items() if not math.isfinite(value)]
        if not broken:
            return
        parts = ", ".join(f"{name} {value:g}" for name, value in raw.items())
        first = ", ".join(map(str, batch.rows[:8]))
        raise StepError(
            f"{self.run.name}: the loss of {', '.join(broken)} is not finite at step {step} "
            f"({parts}), rows {first} ...",
            "the last good checkpoint is kept; lower the learning rate or use fp32",
        )

    def _read_shares(self, weighted: Mapping[str, Tensor]) -> None:
        """Note each term's part of the gradient; after a warning-worthy run of them, say so."""
        terms = {name: value for name, value in weighted.items() if name != "surgery"}
        if len(terms) < 2 or not self.engine.in_place:
            return
        parameters = [p for p in self.student.model.parameters() if p.requires_grad]
        shares = gradient_shares(terms, parameters)
        self.state.gradient_shares.append({"step": self.state.step, **shares})
        self.progress.event("gradient_shares", run=self.run.name, step=self.state.step, **shares)
        sentence = warning([_without_step(s) for s in self.state.gradient_shares])
        if sentence and not self.told:
            self.told = True
            self.progress.say(f"{self.run.name}: {sentence}")

    def _evaluate(self) -> None:
        if not self.run.keep_best:
            return
        with self._timed("evaluation"):
            answers = self._answers()
            value = metrics.score(self.run.metric, answers.outputs, answers.labels)
        self._judged(answers)
        self.state.evals.append({"step": self.state.step, "metric": value})
        self.progress.event("eval", run=self.run.name, step=self.state.step, metric=value)
        self.curve.show(f"dev/{self.run.metric}", value, self.state.step)
        if metrics.better(self.run.metric, value, self.state.best_metric):
            self.state.best_metric, self.state.best_step = value, self.state.step
            self._store(self.work / "best.safetensors", weights_only=True)

    def _answers(self) -> Answers:
        return evaluate(
            self.student.model, self.dev, bf16=self.bf16, inference=self.engine.in_place
        )

    def _judged(self, answers: Answers | None = None) -> None:
        """Tell operators that follow it the loss on dev, evaluated here where it is not given."""
        judges = [m for m in self.memories.values() if isinstance(m, Judge)]
        if not judges:
            return
        if answers is None:
            with self._timed("evaluation"):
                answers = self._answers()
        for judge in judges:
            judge.judged(metrics.score("loss", answers.outputs, answers.labels))

    def _store(self, path: Path, *, weights_only: bool = False) -> None:
        beside = self.kept if weights_only else self.modules
        others = flat({name: module for name, module in beside.items() if name != "student"})
        own = ((f"student.{name}", tensor) for name, tensor in self.engine.weights())
        moments = () if weights_only else self.engine.moments()
        if self.accelerator.is_main_process:
            state = TrainingState() if weights_only else self.state
            count = len(others) + len(self.student.model.state_dict())
            store(path, state, chain(own, others.items()), moments, tensors=count)
        else:
            for _ in chain(own, moments):
                """The main process takes them; all must give."""

    def _log(self, value: float, lr: float, raw: Mapping[str, float]) -> None:
        run, step = self.run, self.state.step
        spent = sum(self.state.seconds.values())
        self.curve.take(self.state, value, lr, raw)
        self.progress.advance(
            run.name,
            step,
            run.steps,
            loss=round(value, 4),
            samples_per_s=round(self.state.samples / spent) if spent else 0,
            best=self.state.best_metric,
        )

    @contextmanager
    def _timed(self, clock: str) -> Iterator[None]:
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
            gradient_shares=self.state.gradient_shares,
        )


def _union(parts: Iterable[frozenset[Request]]) -> frozenset[Request]:
    return frozenset[Request]().union(*parts)


def _without_step(reading: Mapping[str, Any]) -> dict[str, float]:
    return {name: value for name, value in reading.items() if name != "step"}
