"""study(): train every variant with every seed, each once, and write down what came of it.

Each (variant, seed) is a step of the run's folder, done once and found again by its key; so is the
measurement of the speed that fixes how many steps there are. A killed study goes on where it was.
"""

import random
import shutil
import time
from collections.abc import Sequence
from contextlib import closing
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TypeVar

from toolchain.artifact import Draft, digest_of
from toolchain.bench.environment import environment
from toolchain.data.sources import Split, TaskData
from toolchain.errors import ResourceError, UsageError
from toolchain.plan import Plan
from toolchain.progress import Journal, Null, Progress, Tee, Value
from toolchain.rundir import RunFolder, StepLog, claim
from toolchain.study.asked import Study
from toolchain.study.design import TOGETHER, Design, Refusal, Variant, planned
from toolchain.study.findings import Findings, Sample
from toolchain.study.schedule import TEACHER, Schedule, Speed, schedule
from toolchain.teaching import Lying, Teaching

__all__ = ["study"]

# Steps from which the speed is measured.
_PROBE = 12
# A further seed is begun only while it ends within the budget and this much of it.
_GRACE = 1.1

T = TypeVar("T")


def study(
    asked: Study, design: Design, output: Path, *, command: str, started: float, progress: Progress
) -> Findings:
    """Do the whole study in `output`. `started` is the time.monotonic() from which time counts."""
    with claim(output, asked) as folder, closing(Journal(output / "events.jsonl")) as journal:
        work = _Study(asked, design, output, StepLog(folder, Tee(progress, journal)), started)
        return work.findings(command)


class _Study:
    """The steps of one study."""

    def __init__(
        self, asked: Study, design: Design, output: Path, log: StepLog, started: float
    ) -> None:
        self.asked, self.design, self.output = asked, design, output
        self.log, self.started = log, started
        self.settings = asked.study.model_dump(mode="json")
        self.teachers: list[Lying] | None = None

    def findings(self, command: str) -> Findings:
        """Measure, plan, train, and gather."""
        speed = self._speed()
        speed = replace(speed, spent_s=speed.spent_s + self._finetune(speed))
        settings = self.asked.study
        whole = schedule(self.design, speed, budget_s=settings.budget_s, seeds=settings.seeds)
        say = self.log.progress.say
        say(
            f"{len(whole.variants)} variants, {whole.seeds} seeds, {whole.steps} steps each: "
            f"about {whole.estimate_s / 60:.1f} min (estimated)"
        )
        for note in whole.notes:
            say(note)
        samples, done = self._samples(whole, speed)
        found = Findings(
            asked=self.asked,
            design=self.design,
            schedule=done,
            speed=speed,
            samples=tuple(samples),
            command=command,
            created=datetime.now(UTC).isoformat(timespec="seconds"),
            environment=environment(),
            steps=(),
        )
        return replace(self._together(found), steps=tuple(self.log.steps))

    def _together(self, found: Findings) -> Findings:
        """Train what the axes make of the base together: a claim until it is tried."""
        design, setting = found.design, found.combined
        if setting in [design.variants[key].setting for key in found.by_variant]:
            return found
        try:
            variant = planned(design.asked, TOGETHER, setting, self.output)
        except (UsageError, ResourceError) as error:
            refusal = Refusal(axis=TOGETHER, choice="the guideline", why=error.message)
            return replace(found, design=replace(design, refused=(*design.refused, refusal)))
        seeds = [self.asked.seed + number for number in range(found.schedule.seeds)]
        units = [self._unit(variant, found.schedule.steps, seed) for seed in seeds]
        variants = {**design.variants, TOGETHER: variant}
        return replace(
            found, design=replace(design, variants=variants), samples=(*found.samples, *units)
        )

    def _speed(self) -> Speed:
        """Train the base for a few steps, once: what fixes the design must outlive a kill."""
        plan = _part(self.design.base.plan, steps=_PROBE, seed=self.asked.seed)

        def write(draft: Draft, work: Path) -> None:
            teachers, teacher_s = self._tried_teacher(work)
            # What is loaded for the first time must not be counted for every variant.
            _train("speed", _part(plan, steps=1, seed=0), teachers, work, self.log.progress)
            begun = time.monotonic()
            stage = _train("speed", plan, teachers, work, self.log.progress)
            took = time.monotonic() - begun
            step_s = plan.stages[-1].batch_size / float(stage["samples_per_s"])
            draft.facts.update(
                step_s=step_s,
                teacher_s=teacher_s,
                unit_s=max(0.0, took - plan.stages[-1].steps * step_s),
                spent_s=time.monotonic() - self.started,
            )

        done = self.log.step("speed", self._inputs(), self.settings, write)
        facts = done.artifact.facts
        return Speed(**{name: float(value) for name, value in facts.items()})

    def _tried_teacher(self, work: Path) -> tuple[list[Lying] | None, float]:
        """Fine-tune a bare teacher for a few steps; return it, and how long one step takes."""
        plan = self.design.base.plan
        if plan.finetune is None:
            return None, 0.0
        log = StepLog(RunFolder(work / "tried"), Null())
        teaching = Teaching(_with_teacher(plan, _PROBE), log)
        teaching.finetune()
        (stage,) = log.done["teacher"].artifact.facts["stages"]
        return teaching.teachers, plan.finetune.batch_size / float(stage["samples_per_s"])

    def _finetune(self, speed: Speed) -> float:
        """Give a bare teacher its head, in a part of the budget; return the seconds it took."""
        plan = self.design.base.plan
        if plan.finetune is None:
            return 0.0
        most = max(1, int(TEACHER * self.asked.study.budget_s / speed.teacher_s))
        teaching = Teaching(_with_teacher(plan, most), self.log)
        teaching.finetune()
        self.teachers = teaching.teachers
        return self.log.done["teacher"].seconds

    def _samples(self, whole: Schedule, speed: Speed) -> tuple[list[Sample], Schedule]:
        """Train seed after seed, so that what there is of a study can be compared at any time."""
        variants = [self.design.variants[key] for key in whole.variants]
        found: list[Sample] = []
        spent, round_s = speed.spent_s, 0.0
        for number in range(whole.seeds):
            if number and spent + round_s > _GRACE * self.asked.study.budget_s:
                note = (
                    f"{number} of {whole.seeds} seeds: the machine was slower than when it was "
                    "measured, and another would not end within the budget"
                )
                self.log.progress.say(note)
                return found, replace(whole, seeds=number, notes=(*whole.notes, note))
            trained = [self._unit(v, whole.steps, self.asked.seed + number) for v in variants]
            found += trained
            round_s = sum(sample.seconds for sample in trained)
            spent += round_s
        return found, whole

    def _unit(self, variant: Variant, steps: int, seed: int) -> Sample:
        """Train one variant with one seed, or find it trained. Its weights are not kept."""
        plan, name = _part(variant.plan, steps=steps, seed=seed), f"{variant.key}-{seed}"

        def write(draft: Draft, work: Path) -> None:
            stage = _train(name, plan, self.teachers, work, self.log.progress)
            draft.facts.update(
                metric=stage["best_metric"],
                samples_per_s=stage["samples_per_s"],
                parameters=stage["parameters"],
            )

        config = {
            **self.settings,
            "stages": [stage.as_json() for stage in plan.stages],
            "shape": str(plan.student),
            "init": plan.init,
            "seed": seed,
            "data": plan.task.digest,
        }
        done = self.log.step(name, self._inputs(), config, write)
        facts = done.artifact.facts
        return Sample(
            variant=variant.key,
            seed=seed,
            metric=float(facts["metric"]),
            seconds=done.seconds,
            samples_per_s=float(facts["samples_per_s"]),
            parameters=int(facts["parameters"]),
        )

    def _inputs(self) -> dict[str, str]:
        plan = self.design.base.plan
        teacher = self.teachers[0].digest if self.teachers else plan.teacher.digest
        return {"teacher": teacher, "data": plan.task.digest}


class _Inner(Null):
    """What a variant tells while it trains: how far it is, and no more."""

    def __init__(self, outer: Progress, name: str) -> None:
        self._outer, self._name = outer, name

    def advance(self, task: str, done: int, total: int, **figures: Value) -> None:  # noqa: ARG002
        """Pass it on under the variant's name."""
        self._outer.advance(self._name, done, total, **figures)


def _train(
    name: str, plan: Plan, teachers: Sequence[Lying] | None, work: Path, progress: Progress
) -> dict[str, Any]:
    """Make and train the student of a plan below `work`; return the record of its last stage."""
    log = StepLog(RunFolder(work), _Inner(progress, name))
    teaching = Teaching(plan, log)
    if teachers:
        teaching.teachers = list(teachers)
    teaching.design()
    teaching.distill()
    facts = log.done["distilled"].artifact.facts
    record = {**facts["stages"][-1], "parameters": facts["parameters"]}
    # Of dozens of students nothing but their figures is wanted.
    shutil.rmtree(RunFolder(work).root)
    return record


def _with_teacher(plan: Plan, most: int) -> Plan:
    """Return the plan with no more than so many steps to fine-tune its bare teacher."""
    assert plan.finetune is not None
    return replace(plan, finetune=replace(plan.finetune, steps=min(plan.finetune.steps, most)))


def _part(plan: Plan, *, steps: int, seed: int) -> Plan:
    """Return the plan with so many steps and this seed, on the rows that it then sees.

    All variants of a seed get the same rows in the same order.
    """
    stages = tuple(replace(stage, steps=min(steps, stage.steps)) for stage in plan.stages)
    rows = sum(stage.steps * stage.batch_size for stage in stages)
    recipe = plan.recipe.model_copy(update={"seed": seed})
    return replace(plan, recipe=recipe, stages=stages, task=_drawn(plan.task, rows, seed))


def _drawn(task: TaskData, rows: int, seed: int) -> TaskData:
    """Return the task with `rows` training rows drawn without replacement, or with all."""
    if rows >= len(task.train):
        return task
    chosen = sorted(random.Random(seed).sample(range(len(task.train)), rows))
    digest = digest_of({"data": task.digest, "rows": rows, "seed": seed})
    return replace(task, train=_rows_of(task.train, chosen), digest=digest)


def _rows_of(split: Split, chosen: Sequence[int]) -> Split:
    def some(values: tuple[T, ...] | None) -> tuple[T, ...] | None:
        # Language models have no labels.
        return tuple(values[i] for i in chosen) if values else values

    return replace(
        split,
        texts=tuple(split.texts[i] for i in chosen),
        texts_b=some(split.texts_b),
        labels=some(split.labels) or (),
        words=some(split.words),
        answers=some(split.answers),
    )
