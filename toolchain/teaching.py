"""Everything of a run that trains: teachers, assistants, the student, the baseline beside it.

Each model is a step of the run's folder, done once and found again by its key.
"""

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from toolchain.artifact import MANIFEST, Artifact, Draft, drafting
from toolchain.data.sources import TaskData
from toolchain.data.unlabelled import Unlabelled
from toolchain.distill.operators import TeacherGenerate
from toolchain.layermap import LayerMap
from toolchain.models.family import Family
from toolchain.models.initialise import Init
from toolchain.plan import AugmentPlan, CachePlan, Plan, StagePlan
from toolchain.plan.aware import aware_stage
from toolchain.plan.cached import read_from
from toolchain.plan.embedding import sentence_of
from toolchain.rundir import Done, StepLog
from toolchain.scale import launch, processes
from toolchain.spec import ModelSpec
from toolchain.steps.augment import augment, with_augmented
from toolchain.steps.aware import rounding_of
from toolchain.steps.cache import Filled, fill_caches
from toolchain.steps.design import design
from toolchain.steps.generate import generate, with_generated
from toolchain.steps.label import label, with_labelled
from toolchain.steps.pool import pool
from toolchain.steps.together import finetune_together, member
from toolchain.steps.training import TeacherSource, TrainingSetup, train_stages

__all__ = ["Lying", "Teaching"]


@dataclass(frozen=True, kw_only=True)
class Lying:
    """A model of the run: where it lies now, and what it was before its head came (`bare`).

    One with a `cache` is read from there while it teaches.
    """

    folder: Path
    digest: str
    family: Family
    spec: ModelSpec
    bare: Path
    cache: CachePlan | None = None

    def source(self, plan: Plan, *, raw: bool) -> TeacherSource:
        """Return it as a teacher; a stage on raw text reads what it was before fine-tuning."""
        return TeacherSource(
            folder=self.bare if raw else self.folder,
            family=self.family,
            spec=self.spec,
            max_tokens=plan.limit(self.spec.tokenizer),
            cache=self.cache.folder if self.cache else None,
        )

    @staticmethod
    def of(done: Done, family: Family, spec: ModelSpec) -> "Lying":
        """Return the model a step wrote."""
        root = done.artifact.root
        return Lying(folder=root, digest=done.artifact.digest, family=family, spec=spec, bare=root)


class Teaching:
    """The training steps of one run, in the order of their methods. Stage commands call one."""

    def __init__(self, plan: Plan, log: StepLog, *, tensorboard: Path | None = None) -> None:
        self.plan, self.log, self.tensorboard = plan, log, tensorboard
        caches = plan.caches or (None,) * len(plan.checkpoints)
        self.teachers = [
            Lying(
                folder=c.root,
                digest=c.digest,
                family=c.family,
                spec=spec,
                bare=c.root,
                cache=cache,
            )
            for c, spec, cache in zip(plan.checkpoints, plan.teacher_specs, caches, strict=True)
        ]
        self.assistants: list[Lying] = []
        self._extended: tuple[TaskData, dict[str, Any]] | None = None
        self.start, self.start_digest = plan.teacher.root, ""
        if plan.start:
            self.start, self.start_digest = plan.start.root, plan.start.digest

    @property
    def teacher(self) -> Lying:
        """The first teacher."""
        return self.teachers[0]

    def all(self) -> None:
        """Train teachers that need it, assistants, the student and its baseline."""
        self.finetune()
        self.assist()
        self.design()
        self.distill()
        self.baseline()

    def finetune(self) -> None:
        """Give bare encoders their heads; nothing to do for teachers that have one."""
        plan = self.plan
        if plan.task.task == "embed":
            self._pool()
            return
        if plan.together and plan.finetune:
            self._finetune_together(plan.finetune)
            return
        stages = (plan.finetune, *(other.finetune for other in plan.others))
        for number, (stage, encoder) in enumerate(zip(stages, self.teachers, strict=True), 1):
            if stage:
                done = self._training(
                    "teacher" if number == 1 else f"teacher-{number}",
                    encoder.folder,
                    {"encoder": encoder.digest},
                    (stage,),
                    encoder.spec,
                    labels=dict(enumerate(plan.task.labels)),
                )
                self._fine_tuned(number, done.artifact.root, done.artifact.digest)

    def _pool(self) -> None:
        """Write down of bare encoders how their states become embeddings."""
        for number, checkpoint in enumerate(self.plan.checkpoints, 1):
            if checkpoint.sentence is None:
                sentence = sentence_of(self.plan.recipe, checkpoint)
                done = self.log.step(
                    "teacher" if number == 1 else f"teacher-{number}",
                    {"encoder": checkpoint.digest},
                    sentence.as_json(),
                    lambda draft, _, root=checkpoint.root, sentence=sentence: pool(  # type: ignore[misc]
                        draft, source=root, sentence=sentence
                    ),
                )
                self._fine_tuned(number, done.artifact.root, done.artifact.digest)

    def _finetune_together(self, stage: StagePlan) -> None:
        plan, encoders = self.plan, list(self.teachers)
        labels = dict(enumerate(plan.task.labels))
        done = self.log.step(
            "teachers",
            {
                **{f"encoder-{n}": e.digest for n, e in enumerate(encoders, 1)},
                "data": plan.task.digest,
            },
            self._config((stage,), encoders[0].spec, labels),
            lambda draft, work: finetune_together(
                draft,
                encoders=[encoder.source(plan, raw=False) for encoder in encoders],
                labels=labels,
                stage=stage,
                task=plan.task,
                setup=self._setup("teachers", encoders[0].spec),
                work=work,
                progress=self.log.progress,
            ),
            together=True,
        )
        for number in range(1, len(encoders) + 1):
            self._fine_tuned(number, *member(done.artifact, number))

    def _fine_tuned(self, number: int, folder: Path, digest: str) -> None:
        encoder = self.teachers[number - 1]
        self.teachers[number - 1] = replace(encoder, folder=folder, digest=digest)

    def assist(self) -> None:
        """Make and train every assistant, each taught as the student will be."""
        plan = self.plan
        for number, assistant in enumerate(plan.assistants, 1):
            name = f"assistant-{number}"
            made = self._designed(
                f"{name}-start",
                assistant.source,
                assistant.spec,
                assistant.init,
                assistant.copied,
            )
            done = self._training(
                name,
                made.artifact.root,
                {"student": made.artifact.digest, **self._guide_digests()},
                assistant.stages,
                assistant.spec,
            )
            self.assistants.append(Lying.of(done, plan.teacher.family, assistant.spec))

    def design(self) -> None:
        """Make the untrained student; nothing to do for one that was given."""
        plan = self.plan
        if plan.start:
            return
        made = self._designed("student", plan.source, plan.student, plan.init, plan.copied)
        self.start, self.start_digest = made.artifact.root, made.artifact.digest

    def _designed(
        self, name: str, source: int, spec: ModelSpec, init: Init, copied: LayerMap
    ) -> Done:
        plan = self.plan
        parent = (self.teacher, *self.assistants)[source]
        inputs, config = {"teacher": parent.digest}, {"shape": str(spec), "init": init}
        texts: tuple[str, ...] = ()
        if spec.vocab < parent.spec.vocab:
            # Which tokens are kept is decided on all text the student is to learn from.
            inputs |= {"data": plan.task.digest, "raw": plan.raw_digest}
            config["vocab"] = str(spec.vocab)
            texts = (*plan.task.train.texts, *(plan.task.train.texts_b or ()), *plan.raw)
            if plan.unlabelled:
                inputs["unlabelled"] = plan.unlabelled.digest
                texts += (*plan.unlabelled.texts, *(plan.unlabelled.texts_b or ()))
        return self.log.step(
            name,
            inputs,
            {**config, "seed": plan.recipe.seed},
            lambda draft, _: design(
                draft,
                teacher=parent.folder,
                family=parent.family,
                spec=spec,
                init=init,
                copied=copied,
                seed=plan.recipe.seed,
                texts=texts,
            ),
        )

    def cache(self, output: Path) -> list[Filled]:
        """Store what the student's stages read of the teachers below the folder `output`."""
        work = output.absolute().with_name(f".{output.name}.cache")
        task = self._material(self.plan.stages, work)
        filled = fill_caches(self.plan, task, output, self.log.progress)
        shutil.rmtree(work, ignore_errors=True)
        return filled

    def _stream(self) -> None:
        """Stream the teachers into caches of the run, and read them from there."""
        folder = self.log.place.work("cache", self.plan.recipe_digest)
        launch.share(folder)
        if processes.is_main():
            self.cache(folder)
        launch.meet()
        self.plan = read_from(self.plan, folder)
        self.teachers = [
            replace(teacher, cache=cache)
            for teacher, cache in zip(self.teachers, self.plan.caches, strict=True)
        ]

    def distill(self) -> None:
        """Train the student against its guides."""
        if self.plan.streams:
            self._stream()
        plan = self.plan
        inputs = {"student": self.start_digest, **self._guide_digests()}
        self._training("distilled", self.start, inputs, plan.stages, plan.student)

    def _material(self, stages: Sequence[StagePlan], work: Path) -> TaskData:
        """Return what stages train on: the data, further rows too, or answers to its prompts.

        What is made for it lies in the working folder of the step, and is written once.
        """
        plan = self.plan
        if any(stage.extended for stage in stages):
            return self._with_further(work)
        operators = (operator for stage in stages for operator in stage.parts.operators)
        writing = next((op for op in operators if isinstance(op, TeacherGenerate)), None)
        if writing is None:
            return plan.task
        folder = work / "answers"
        with launch.main_first():
            if not (folder / MANIFEST).is_file():
                self._answer(folder, stages, writing, work)
        return with_generated(plan.task, Artifact.open(folder))

    def _answer(
        self, folder: Path, stages: Sequence[StagePlan], writing: TeacherGenerate, work: Path
    ) -> None:
        plan = self.plan
        with drafting(folder, {}) as draft:
            generate(
                draft,
                teacher=self._guides()[0].folder,
                task=plan.task,
                settings=writing,
                max_tokens=plan.limit(self._guides()[0].spec.tokenizer),
                batch_size=stages[0].batch_size,
                threads=plan.train_threads,
                work=work / "shards",
                progress=self.log.progress,
            )

    def _with_further(self, work: Path) -> TaskData:
        """Return the task with further rows, the same for every model that learns from them."""
        plan = self.plan
        if self._extended is None:
            copies, labelled = work / "copies", work / "labelled"
            with launch.main_first():
                if plan.augment and not (copies / MANIFEST).is_file():
                    self._copy(copies, plan.augment, work)
                if plan.unlabelled and not (labelled / MANIFEST).is_file():
                    self._label(labelled, plan.unlabelled, work)
            task, facts = plan.task, {}
            if plan.augment:
                written = Artifact.open(copies)
                task, facts["augmented"] = with_augmented(task, written), dict(written.facts)
            if plan.unlabelled:
                written = Artifact.open(labelled)
                task, facts["unlabelled"] = with_labelled(task, written), dict(written.facts)
            self._extended = task, facts
        return self._extended[0]

    def _copy(self, folder: Path, augmenting: AugmentPlan, work: Path) -> None:
        plan = self.plan
        with drafting(folder, {}) as draft:
            augment(
                draft,
                model=augmenting.checkpoint.root,
                task=plan.task,
                settings=augmenting.settings,
                max_tokens=min(plan.max_tokens, augmenting.checkpoint.spec.max_tokens),
                threads=plan.train_threads,
                seed=plan.recipe.seed,
                work=work / "copy-shards",
                progress=self.log.progress,
            )

    def _label(self, folder: Path, texts: Unlabelled, work: Path) -> None:
        plan, teacher = self.plan, self.teacher
        with drafting(folder, {}) as draft:
            label(
                draft,
                teacher=teacher.folder,
                texts=texts,
                task=plan.task,
                max_tokens=plan.limit(teacher.spec.tokenizer),
                batch_size=plan.stages[0].batch_size,
                threads=plan.train_threads,
                work=work / "label-shards",
                progress=self.log.progress,
            )

    def baseline(self) -> None:
        """Train the same student from the same start on labels alone, unless not wanted."""
        plan = self.plan
        if plan.baseline:
            inputs = {"student": self.start_digest}
            self._training("baseline", self.start, inputs, (plan.baseline,), plan.student)

    def aware(self, exported: Path) -> Done:
        """Train the finished student on with the rounding that its file `exported` gets in int8."""
        plan, trained = self.plan, self.log.done["distilled"].artifact
        stage = aware_stage(plan, rounding_of(trained.root, exported, plan.student.task))
        inputs = {"student": trained.digest, **self._guide_digests()}
        return self._training("aware", trained.root, inputs, (stage,), plan.student)

    def trained(self) -> dict[str, Mapping[str, Any]]:
        """Return the facts of every step that trained, by its name; the student's is "distill"."""
        return {
            "distill" if done.name == "distilled" else done.name: done.artifact.facts
            for done in self.log.steps
            if "stages" in done.artifact.facts
        }

    def _guides(self) -> list[Lying]:
        """Return who teaches the next model, in the order the plan bound its terms to them."""
        if self.plan.all_guides:
            return [*self.teachers, *self.assistants]
        return self.assistants[-1:] or self.teachers

    def _guide_digests(self) -> dict[str, str]:
        names = ("teacher", *(f"teacher-{n}" for n in range(2, len(self._guides()) + 1)))
        named = dict(zip(names, self._guides(), strict=True))
        caches = {f"{name}-cache": g.cache.digest for name, g in named.items() if g.cache}
        return {**{name: guide.digest for name, guide in named.items()}, **caches}

    def _setup(self, name: str, spec: ModelSpec) -> TrainingSetup:
        board = self.tensorboard and self.tensorboard / name
        return TrainingSetup.of(self.plan, spec.tokenizer, board)

    def _config(
        self, stages: Sequence[StagePlan], spec: ModelSpec, labels: Mapping[int, str] | None
    ) -> dict[str, object]:
        plan = self.plan
        # Teachers with other tokenizers read rows of their own, of another length.
        others = {
            str(number): plan.limit(guide.spec.tokenizer)
            for number, guide in enumerate(self._guides(), 1)
            if guide.spec.tokenizer != spec.tokenizer and any(s.needs_teacher for s in stages)
        }
        settings = plan.recipe.train.model_dump(exclude={"checkpoint_seconds", "tensorboard"})
        return {
            "stages": [stage.as_json() for stage in stages],
            "train": settings,
            "labels": list(plan.task.labels) if labels else [],
            "seed": plan.recipe.seed,
            "bf16": plan.bf16,
            "threads": plan.train_threads,
            "max_tokens": plan.limit(spec.tokenizer),
            **({"teachers_max_tokens": others} if others else {}),
            "metric": plan.recipe.metric,
            "pack": plan.recipe.data.pack,
        }

    def _training(
        self,
        name: str,
        start: Path,
        inputs: Mapping[str, str],
        stages: Sequence[StagePlan],
        spec: ModelSpec,
        labels: Mapping[int, str] | None = None,
    ) -> Done:
        plan = self.plan
        data = {"data": plan.task.digest}
        if any(stage.raw for stage in stages):
            data["raw"] = plan.raw_digest
        extended = any(stage.extended for stage in stages)
        teachers = {
            stage.name: tuple(guide.source(plan, raw=stage.raw) for guide in self._guides())
            for stage in stages
        }

        def write(draft: Draft, work: Path) -> None:
            train_stages(
                draft,
                start=start,
                labels=labels,
                head=dict(enumerate(plan.task.labels)),
                spec=spec,
                teachers=teachers,
                stages=stages,
                task=self._material(stages, work),
                raw=plan.raw,
                setup=self._setup(name, spec),
                work=work,
                progress=self.log.progress,
            )
            if self._extended and extended:
                draft.facts.update(self._extended[1])

        config = self._config(stages, spec, labels)
        if plan.augment and extended:
            config["augment"] = plan.augment.as_json()
        if plan.unlabelled and extended:
            # An assistant's digest would not say who labelled.
            by = {"texts": plan.unlabelled.digest, "teacher": self.teacher.digest}
            config["unlabelled"] = by
        return self.log.step(name, {**inputs, **data}, config, write, together=True)
