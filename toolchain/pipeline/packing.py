"""What is given away: tokenizers put inside, a bundle for each target, the files of the output."""

from collections.abc import Mapping
from pathlib import Path

from toolchain.artifact import Artifact
from toolchain.bundle.check import selftest
from toolchain.errors import IntegrityError
from toolchain.export.exporter import ONNX
from toolchain.export.genai import GENAI_CONFIG
from toolchain.pipeline.lineup import Lineup
from toolchain.steps.benchmark import Timing
from toolchain.steps.bundle import bundle, licences_of
from toolchain.steps.inside import (
    TEXT_FILE,
    put_beside_or_inside,
    said_of,
    task_rows,
    text_model,
)
from toolchain.steps.verify import Proof
from toolchain.verify.choice import Shipping

__all__ = ["Packing"]


class Packing:
    """The last steps of one run; `shipping` says by target what ships there."""

    def __init__(
        self, lineup: Lineup, proof: Proof, timing: Timing, shipping: Mapping[str, Shipping]
    ) -> None:
        self._plan, self._log, self._teacher = lineup.plan, lineup.log, lineup.teacher.digest
        self._models = lineup.all(proof)
        self._proof, self._timing, self._shipping = proof, timing, shipping
        self._texts: dict[str, Artifact] = {}

    def put_inside(self) -> None:
        """Write what ships once more, as files that take text, where that was asked for."""
        plan = self._plan
        if plan.recipe.tokenizer == "beside":
            return
        tokenizer = self._log.done["distilled"].artifact
        for variant in self._models:
            if variant.name not in {s.model for s in self._shipping.values()}:
                continue
            if variant.format != ONNX:
                self._log.progress.say(f"{variant.name}: a tokenizer goes into ONNX files only")
                continue
            done = self._log.step(
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
            self._texts[variant.name] = done.artifact
            self._log.progress.say(said_of(done.artifact, variant.name))

    def pack(self) -> None:
        """Write one bundle per target that something ships to."""
        plan = self._plan
        by_name = {variant.name: variant for variant in self._models}
        licences = licences_of(plan.teacher.root, plan.teacher.licence)
        for target in plan.targets:
            model = self._shipping[target.name].model
            if model is None:
                continue
            variant = by_name[model]
            trained = "aware" if variant.held_to else "distilled"
            lineage = {
                "teacher": self._teacher,
                "student": self._log.done[trained].artifact.digest,
                "data": plan.task.digest,
                "recipe": plan.recipe_digest,
            }
            on_target = target.fidelity == "measured"
            packed = self._log.step(
                f"bundle-{target.name}",
                {"model": variant.digest, **lineage, **self._text_digest(variant.name)},
                {"target": target.model_dump(), "measured": on_target and self._timing_digest()},
                lambda draft, _, variant=variant, target=target, lineage=lineage: bundle(  # type: ignore[misc]
                    draft,
                    variant=variant,
                    tokenizer=self._log.done["distilled"].artifact.root,
                    target=target,
                    task=plan.task,
                    max_tokens=plan.max_tokens,
                    lineage=lineage,
                    licences=licences,
                    metric=self._proof.metrics.get(variant.name),
                    measurements=[m for m in self._timing.measurements if m.model == variant.name],
                    text_model=self._text_model(variant.name),
                ),
            )
            problems = selftest(packed.artifact.root)
            if problems:
                raise IntegrityError(f"the bundle for {target.name} fails its test: {problems[0]}")

    def said(self) -> list[str]:
        """Return in one sentence each what became of the tokenizers that were to go inside."""
        return [said_of(artifact, name) for name, artifact in self._texts.items()]

    def published(self) -> dict[str, Path]:
        """Return the files of the output folder: relative name to where it lies now."""
        student = self._log.done["distilled"].artifact
        files = {name: student.root / name for name in student.files}
        shipped = {s.model for s in self._shipping.values()}
        for variant in self._models:
            whole = variant.role == "student" and variant.parent and variant.published
            if whole and self._proof.passed(variant.name):
                files[variant.published] = variant.path
                described = variant.folder / GENAI_CONFIG
                # Of the last one that ships, else of fp32, which comes first.
                if described.is_file() and (GENAI_CONFIG not in files or variant.name in shipped):
                    files[GENAI_CONFIG] = described
                for path in variant.beside:
                    files[path.relative_to(variant.folder).as_posix()] = path
        texts = [t for s in self._shipping.values() if (t := self._text_model(s.model))]
        if texts:
            # Where targets get different models, that of the first; each bundle holds its own.
            files[TEXT_FILE] = texts[0]
        for target in self._shipping:
            step = f"bundle-{target}"
            if step in self._log.done:
                packed = self._log.done[step].artifact
                for name in (*packed.files, "manifest.json"):
                    files[f"bundles/{target}/{name}"] = packed.root / name
        return files

    def _text_model(self, model: str | None) -> Path | None:
        return text_model(self._texts[model]) if model in self._texts else None

    def _text_digest(self, model: str) -> dict[str, str]:
        return {"text": self._texts[model].digest} if model in self._texts else {}

    def _timing_digest(self) -> str:
        return self._log.done["benchmark"].artifact.digest
