"""The files of a run: teacher and student exported, the student in every precision and format."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from toolchain.artifact import Artifact, Draft
from toolchain.export.exporter import exporters
from toolchain.optimize.precision import FP32, Calibration, precisions
from toolchain.plan import Plan
from toolchain.recipe import Recipe
from toolchain.rundir import StepLog
from toolchain.steps.calibrate import calibration_rows
from toolchain.steps.export import convert, export, quantize
from toolchain.steps.variants import onnx_file
from toolchain.teaching import Lying

__all__ = ["Conversion", "other_formats", "quantised"]


def quantised(recipe: Recipe) -> list[str]:
    """Return the precisions that .onnx files are written in beside fp32."""
    known = precisions.names()
    return [name for name in recipe.precisions if name in known]


def other_formats(recipe: Recipe) -> list[tuple[str, str]]:
    """Return each format beside ONNX with each precision that it has, fp32 first."""
    return [
        (format, precision)
        for format in recipe.formats[1:]
        for precision in (FP32, *recipe.precisions[:-1])
        if precision in exporters.get(format).files
    ]


@dataclass(frozen=True)
class Conversion:
    """Writes the files of the student that `distilled` holds, and its teacher's."""

    plan: Plan
    log: StepLog

    def all(self, teacher: Lying) -> None:
        """Export teacher and student; quantise the student."""
        trained = self.log.done["distilled"].artifact
        self.log.step(
            "teacher-onnx",
            {"teacher": teacher.digest},
            {},
            lambda draft, _: export(draft, source=teacher.folder),
        )
        exported = self.log.step(
            "student-onnx",
            {"student": trained.digest},
            {},
            lambda draft, _: export(draft, source=trained.root),
        )
        for name in quantised(self.plan.recipe):
            self._quantize(name, exported.artifact)
        for format, precision in other_formats(self.plan.recipe):
            self._convert(format, precision, trained, exported.artifact)

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
            self.log.progress.say(f"{precision}: {note}")
