"""compress(): the whole road from a teacher to bundles and a report, in ordered steps.

Every step reads finished folders and writes one. A step already done with the same inputs is
skipped; a kill between or inside steps is resumed by the same call.
"""

from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from toolchain.artifact import Artifact, Draft, digest_of
from toolchain.bundle.check import selftest
from toolchain.errors import GateNotMet, IntegrityError
from toolchain.export.exporter import ONNX, exporters
from toolchain.export.genai import GENAI_CONFIG
from toolchain.measurement import Metric, Verdict
from toolchain.models.shards import SINGLE, weights_digest
from toolchain.optimize.precision import FP32, Calibration, precisions
from toolchain.plan import Plan
from toolchain.plan.aware import INT8
from toolchain.progress import Journal, Null, Progress, Tee
from toolchain.publish import publish
from toolchain.report.report import Report
from toolchain.rundir import Place, RunFolder, StepLog, claim
from toolchain.scale import launch
from toolchain.steps.benchmark import Timing, benchmark, read_timing
from toolchain.steps.bundle import bundle, licences_of
from toolchain.steps.calibrate import calibration_rows
from toolchain.steps.decide import better_of, decide
from toolchain.steps.export import convert, export, quantize
from toolchain.steps.inside import (
    TEXT_FILE,
    put_beside_or_inside,
    said_of,
    task_rows,
    text_model,
)
from toolchain.steps.report import Findings, gather
from toolchain.steps.variants import TEACHER, Variant, onnx_file
from toolchain.steps.verify import Proof, read_proof, verify
from toolchain.teaching import Teaching
from toolchain.verify.choice import Shipping
from toolchain.verify.gates import QUALITY

__all__ = ["Outcome", "Run", "compress", "take_part"]


_AWARE = f"student-aware-{INT8}"


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What a finished run leaves: the report, and where things lie."""

    output: Path
    report: Report
    shipping: Mapping[str, Shipping]

    def as_json(self) -> dict[str, Any]:
        """Return what `--json` prints: where things lie and what ships where."""
        shipped = {
            name: {"model": s.model, "why": s.why, "bundle": str(self.output / "bundles" / name)}
            for name, s in self.shipping.items()
        }
        report = str(self.output / "report" / "report.json")
        return {"output": str(self.output), "report": report, "shipped": shipped}


def compress(plan: Plan, output: Path, *, command: str, progress: Progress) -> Outcome:
    """Do every step of the plan and publish the results into `output`.

    Raises IntegrityError (4) when the export does not equal the student, GateNotMet (3) when what
    ships misses a limit that was asked for; artefacts and report are kept in both cases.
    """
    with (
        claim(output, plan.recipe) as folder,
        closing(Journal(output / "events.jsonl")) as journal,
    ):
        telling = Tee(progress, journal)
        run = Run(plan, folder, telling, tensorboard=output / "tensorboard")
        run.teaching.all()
        # What follows is one process's work.
        launch.part()
        run.convert()
        run.prove()
        run.adapt()
        shipping, verdicts = run.judge()
        run.put_inside(shipping)
        run.pack(shipping)
        report = gather(run.findings(command, shipping, verdicts))
        publish(output, run.published(shipping), report, plan, run.log.steps, telling)
    _raise_for(shipping, output)
    return Outcome(output=output, report=report, shipping=shipping)


def take_part(plan: Plan, output: Path) -> None:
    """Train beside the main process, which does all the rest of the run."""
    Teaching(plan, StepLog(RunFolder(output), Null())).all()
    launch.part()


def _raise_for(shipping: Mapping[str, Shipping], output: Path) -> None:
    where = f"the report in {output / 'report'} has the figures"
    for shipped in shipping.values():
        if not shipped.proved:
            raise IntegrityError(shipped.why, where)
    missed = {
        f"{v.gate}: {v.limit}, found {v.observed}" for s in shipping.values() for v in s.unmet
    }
    if missed:
        raise GateNotMet(f"a gate was not met: {'; '.join(sorted(missed))}", where)
    empty = [s.why for s in shipping.values() if s.model is None]
    if empty:
        raise GateNotMet("; ".join(empty), where)


class Run:
    """The steps of one run, each remembered once done. Stage commands call single ones."""

    def __init__(
        self, plan: Plan, place: Place, progress: Progress, *, tensorboard: Path | None = None
    ) -> None:
        self.plan, self.progress = plan, progress
        self.log = StepLog(place, progress)
        self.teaching = Teaching(plan, self.log, tensorboard=tensorboard)
        self.proof: Proof
        self.timing: Timing
        self.texts: dict[str, Artifact] = {}

    def convert(self) -> None:
        """Export teacher and student; quantise the student."""
        trained = self.log.done["distilled"].artifact
        self.log.step(
            "teacher-onnx",
            {"teacher": self.teaching.teacher.digest},
            {},
            lambda draft, _: export(draft, source=self.teaching.teacher.folder),
        )
        exported = self.log.step(
            "student-onnx",
            {"student": trained.digest},
            {},
            lambda draft, _: export(draft, source=trained.root),
        )
        for name in self._quantised():
            self._quantize(name, exported.artifact)
        for format, precision in self._others():
            self._convert(format, precision, trained, exported.artifact)

    def _quantised(self) -> list[str]:
        known = precisions.names()
        return [name for name in self.plan.recipe.precisions if name in known]

    def _others(self) -> list[tuple[str, str]]:
        """Return each format beside ONNX with each precision that it has, fp32 first."""
        recipe = self.plan.recipe
        return [
            (format, precision)
            for format in recipe.formats[1:]
            for precision in (FP32, *recipe.precisions[:-1])
            if precision in exporters.get(format).files
        ]

    def _convert(self, format: str, precision: str, trained: Artifact, exported: Artifact) -> None:
        plan, inputs = self.plan, {"student": exported.digest, "trained": trained.digest}
        looks = precision in exporters.get(format).calibrated
        onnx: Path | None = None
        if exporters.get(format).converts and precision != FP32:
            same = self.log.done[f"student-{precision}"].artifact
            inputs["same"], onnx, looks = same.digest, same.path(onnx_file(precision)), False

        def write(draft: Draft, _: Path) -> None:
            convert(
                draft,
                format=format,
                precision=precision,
                trained=trained.root,
                exported=exported.root,
                max_tokens=plan.max_tokens,
                calibration=self._texts(exported) if looks else (),
                onnx=onnx,
            )

        if looks:
            inputs["data"] = plan.task.digest
        config = {"max_tokens": plan.max_tokens, "seed": plan.recipe.seed}
        self.log.step(f"student-{format}-{precision}", inputs, config, write)

    def _texts(self, exported: Artifact) -> Calibration:
        plan = self.plan
        return calibration_rows(
            exported.root, plan.task, max_tokens=plan.max_tokens, seed=plan.recipe.seed
        )

    def _quantize(self, precision: str, exported: Artifact) -> None:
        plan, inputs = self.plan, {"student": exported.digest}
        looks = precisions.get(precision).calibrated

        def write(draft: Draft, _: Path) -> None:
            rows: Calibration = self._texts(exported) if looks else ()
            quantize(draft, source=exported.root, precision=precision, calibration=rows)

        config: dict[str, Any] = {}
        if looks:
            inputs["data"] = plan.task.digest
            config = {"max_tokens": plan.max_tokens, "seed": plan.recipe.seed}
        step = self.log.step(f"student-{precision}", inputs, config, write)
        for note in step.artifact.facts.get("notes", ()):
            self.progress.say(f"{precision}: {note}")

    def variants(self) -> list[Variant]:
        """Return the models of the run, parents first."""
        plan = self.plan
        parameters = int(self.log.done["distilled"].artifact.facts["parameters"])
        teacher = Variant(
            name=TEACHER,
            role="teacher",
            format="torch",
            precision="fp32",
            path=self.teaching.teacher.folder,
            digest=weights_digest(self.teaching.teacher.folder, TEACHER),
            parameters=plan.teacher_spec.params(),
            max_tokens=plan.limit(plan.teacher_spec.tokenizer),
        )
        student = Variant(
            name="student",
            role="student",
            format="torch",
            precision="fp32",
            path=self.log.done["distilled"].artifact.root,
            digest=self.log.done["distilled"].artifact.files[SINGLE],
            parameters=parameters,
            published=SINGLE,
        )
        found = [teacher, self._onnx("teacher-onnx", teacher)]
        if "baseline" in self.log.done:
            artifact = self.log.done["baseline"].artifact
            found.append(
                replace(
                    student,
                    name="baseline",
                    role="baseline",
                    path=artifact.root,
                    digest=artifact.files[SINGLE],
                    parameters=int(artifact.facts["parameters"]),
                    published="",
                )
            )
        exported = self._onnx("student-onnx", student)
        found += [student, exported]
        found += [self._onnx(f"student-{name}", exported) for name in self._quantised()]
        for format, precision in self._others():
            parent = student if precision == FP32 else exported
            found.append(replace(self._onnx(f"student-{format}-{precision}", parent), opset=0))
        if "verify-aware" not in self.log.done:
            return found
        *rest, aware = self._trained_on(student)
        plain = next(v for v in found if v.name == f"student-{INT8}")
        settled, aware = better_of(plain, aware, self.proof)
        return [*(settled if v is plain else v for v in found), *rest, aware]

    def _trained_on(self, student: Variant) -> list[Variant]:
        """Return the student that was trained for its int8 file, and its files, that one last.

        What was trained is the student as it rounds: its int8 file must answer like that, and its
        metric is held against the ordinary student's. The fp32 file is there to be quantised.
        """
        trained = self.log.done["aware"].artifact
        own = replace(
            student,
            name="student-aware",
            path=trained.root,
            digest=trained.files[SINGLE],
            published="",
        )
        exported = self._onnx("student-aware-onnx", own)
        file = self._onnx(_AWARE, exported)
        rounded = replace(own, name="student-aware-rounded", rounded=exported.path)
        file = replace(file, held_to="student-onnx", like=rounded.name, published=onnx_file(INT8))
        return [own, replace(exported, published="", candidate=False), rounded, file]

    def _onnx(self, name: str, parent: Variant) -> Variant:
        artifact = self.log.done[name].artifact
        file = str(artifact.facts["file"])
        opset = int(artifact.facts.get("opset", parent.opset))
        return replace(
            parent,
            name=name,
            format=artifact.format,
            precision=artifact.precision,
            path=artifact.path(file),
            digest=artifact.files[file],
            parent=parent.name,
            opset=opset,
            published=file if parent.role == "student" else "",
        )

    def prove(self) -> None:
        """Verify every model against its parent and the gates."""
        self.proof = self._proved("verify", self.variants())

    def adapt(self) -> None:
        """Train the student on for its int8 file, where that misses a gate or it is asked for."""
        aware, missed = self.plan.aware, self._missed()
        if aware is None or not (missed or aware.always) or not self.proof.passed("student-onnx"):
            return
        if missed:
            self.progress.say(f"the student is trained on with the rounding of int8: {missed}")
        exported = self.log.done["student-onnx"].artifact
        trained = self.teaching.aware(exported.path(str(exported.facts["file"]))).artifact
        again = self.log.step(
            "student-aware-onnx",
            {"student": trained.digest},
            {},
            lambda draft, _: export(draft, source=trained.root),
        ).artifact
        self.log.step(
            _AWARE,
            {"student": again.digest},
            {},
            lambda draft, _: quantize(draft, source=again.root, precision=INT8),
        )
        student = next(v for v in self.variants() if v.name == "student")
        found = self._proved("verify-aware", self._trained_on(student), self.proof.metrics)
        self.proof = self.proof.with_more(found)

    def _missed(self) -> str:
        """Return how the int8 file misses a gate of quality, or an empty string."""
        missed = (
            f"{v.gate} {v.observed}, expected {v.limit}"
            for v in self.proof.verdicts
            if v.model == f"student-{INT8}" and v.gate in QUALITY and v.passed is False
        )
        return next(missed, "")

    def _proved(
        self, step: str, variants: Sequence[Variant], known: Mapping[str, Metric] | None = None
    ) -> Proof:
        plan, recipe = self.plan, self.plan.recipe
        beside = {f"metric-{n}": digest_of(asdict(m)) for n, m in (known or {}).items()}
        proved = self.log.step(
            step,
            {**{v.name: v.digest for v in variants}, "data": plan.task.digest, **beside},
            {"gates": recipe.gates.model_dump(), "metric": recipe.metric, "max": plan.max_tokens},
            lambda draft, _: verify(
                draft,
                variants=variants,
                task=plan.task,
                metric=recipe.metric,
                limits=recipe.gates,
                max_tokens=plan.max_tokens,
                threads=plan.train_threads,
                progress=self.progress,
                known=known,
            ),
        )
        return read_proof(proved.artifact)

    def judge(self) -> tuple[dict[str, Shipping], list[Verdict]]:
        """Measure what was proved, and decide what ships where."""
        plan, variants = self.plan, self.variants()
        recipe = plan.recipe
        # What is not proved is not timed; the baseline has the student's shape and speed.
        timed = [
            v
            for v in variants
            if v.role != "baseline"
            and (v.role, v.format) != ("student", "torch")
            and self.proof.passed(v.name)
        ]
        measured = self.log.step(
            "benchmark",
            {**{v.name: v.digest for v in timed}, "data": plan.task.digest},
            {
                "settings": recipe.benchmark.model_dump(),
                "threads": plan.bench_threads,
                "seed": recipe.seed,
                "max_tokens": plan.max_tokens,
            },
            lambda draft, work: benchmark(
                draft,
                variants=timed,
                task=plan.task,
                settings=recipe.benchmark,
                max_tokens=plan.max_tokens,
                threads=plan.bench_threads,
                seed=recipe.seed,
                work=work,
                progress=self.progress,
            ),
        )
        self.timing = read_timing(measured.artifact)
        files = [v for v in variants if v.role == "student" and v.format != "torch" and v.candidate]
        return decide(
            files, plan.targets, recipe.gates, self.proof, self.timing, progress=self.progress
        )

    def put_inside(self, shipping: Mapping[str, Shipping]) -> None:
        """Write what ships once more, as files that take text, where that was asked for."""
        plan = self.plan
        if plan.recipe.tokenizer == "beside":
            return
        tokenizer = self.log.done["distilled"].artifact
        for variant in self.variants():
            if variant.name not in {s.model for s in shipping.values()}:
                continue
            if variant.format != ONNX:
                self.progress.say(f"{variant.name}: a tokenizer goes into ONNX files only")
                continue
            done = self.log.step(
                f"text-{variant.name}",
                {"model": variant.digest, "student": tokenizer.digest, "data": plan.task.digest},
                {"max_tokens": plan.max_tokens, "labels": plan.task.labels},
                lambda draft, _, variant=variant: put_beside_or_inside(  # type: ignore[misc]
                    draft,
                    model=variant.path,
                    tokenizer=tokenizer.root,
                    rows=task_rows(plan.task),
                    labels=plan.task.labels if plan.task.task == "classify" else (),
                    max_tokens=plan.max_tokens,
                ),
            )
            self.texts[variant.name] = done.artifact
            self.progress.say(said_of(done.artifact, variant.name))

    def _text_model(self, model: str | None) -> Path | None:
        return text_model(self.texts[model]) if model in self.texts else None

    def pack(self, shipping: Mapping[str, Shipping]) -> None:
        """Write one bundle per target that something ships to."""
        plan = self.plan
        by_name = {variant.name: variant for variant in self.variants()}
        licences = licences_of(plan.teacher.root, plan.teacher.licence)
        for target in plan.targets:
            model = shipping[target.name].model
            if model is None:
                continue
            variant = by_name[model]
            trained = "aware" if variant.held_to else "distilled"
            lineage = {
                "teacher": self.teaching.teacher.digest,
                "student": self.log.done[trained].artifact.digest,
                "data": plan.task.digest,
                "recipe": plan.recipe_digest,
            }
            on_target = target.fidelity == "measured"
            packed = self.log.step(
                f"bundle-{target.name}",
                {"model": variant.digest, **lineage, **self._text_digest(variant.name)},
                {"target": target.model_dump(), "measured": on_target and self._timing_digest()},
                lambda draft, _, variant=variant, target=target, lineage=lineage: bundle(  # type: ignore[misc]
                    draft,
                    variant=variant,
                    tokenizer=self.log.done["distilled"].artifact.root,
                    target=target,
                    task=plan.task,
                    max_tokens=plan.max_tokens,
                    lineage=lineage,
                    licences=licences,
                    metric=self.proof.metrics.get(variant.name),
                    measurements=[m for m in self.timing.measurements if m.model == variant.name],
                    text_model=self._text_model(variant.name),
                ),
            )
            problems = selftest(packed.artifact.root)
            if problems:
                raise IntegrityError(f"the bundle for {target.name} fails its test: {problems[0]}")

    def _text_digest(self, model: str) -> dict[str, str]:
        return {"text": self.texts[model].digest} if model in self.texts else {}

    def _timing_digest(self) -> str:
        return self.log.done["benchmark"].artifact.digest

    def findings(
        self, command: str, shipping: Mapping[str, Shipping], verdicts: Sequence[Verdict]
    ) -> Findings:
        """Return all results for the report."""
        return Findings(
            plan=self.plan,
            command=command,
            variants=self.variants(),
            proof=self.proof,
            timing=self.timing,
            verdicts=verdicts,
            shipping=shipping,
            steps=self.log.steps,
            trained=self.teaching.trained(),
            texts=[said_of(artifact, name) for name, artifact in self.texts.items()],
        )

    def published(self, shipping: Mapping[str, Shipping]) -> dict[str, Path]:
        """Return the files of the output folder: relative name to where it lies now."""
        student = self.log.done["distilled"].artifact
        files = {name: student.root / name for name in student.files}
        shipped = {s.model for s in shipping.values()}
        for variant in self.variants():
            whole = variant.role == "student" and variant.parent and variant.published
            if whole and self.proof.passed(variant.name):
                files[variant.published] = variant.path
                described = variant.folder / GENAI_CONFIG
                # Of the last one that ships, else of fp32, which comes first.
                if described.is_file() and (GENAI_CONFIG not in files or variant.name in shipped):
                    files[GENAI_CONFIG] = described
                for path in variant.beside:
                    files[path.relative_to(variant.folder).as_posix()] = path
        texts = [t for s in shipping.values() if (t := self._text_model(s.model))]
        if texts:
            # Where targets get different models, that of the first; each bundle holds its own.
            files[TEXT_FILE] = texts[0]
        for target in shipping:
            step = f"bundle-{target}"
            if step in self.log.done:
                packed = self.log.done[step].artifact
                for name in (*packed.files, "manifest.json"):
                    files[f"bundles/{target}/{name}"] = packed.root / name
        return files
