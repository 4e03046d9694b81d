"""The models of a run as they are verified, timed and shipped, each with what it is held to."""

from dataclasses import dataclass, replace

from toolchain.models.shards import SINGLE, weights_digest
from toolchain.optimize.precision import FP32
from toolchain.pipeline.conversion import other_formats, quantised
from toolchain.plan import Plan
from toolchain.plan.aware import INT8
from toolchain.rundir import StepLog
from toolchain.steps.decide import better_of
from toolchain.steps.variants import TEACHER, Variant, onnx_file
from toolchain.steps.verify import Proof
from toolchain.teaching import Lying

__all__ = ["AWARE", "Lineup"]

AWARE = f"student-aware-{INT8}"
"""The step that writes the int8 file of the student that was trained for it."""


@dataclass(frozen=True)
class Lineup:
    """Describes what the finished steps of a run have written."""

    plan: Plan
    log: StepLog
    teacher: Lying

    def all(self, proof: Proof | None = None) -> list[Variant]:
        """Return the models of the run, parents first.

        Of two int8 files that were verified, the `proof` says which is published.
        """
        plan, student = self.plan, self.student()
        teacher = Variant(
            name=TEACHER,
            role="teacher",
            format="torch",
            precision="fp32",
            path=self.teacher.folder,
            digest=weights_digest(self.teacher.folder, TEACHER),
            parameters=plan.teacher_spec.params(),
            max_tokens=plan.limit(plan.teacher_spec.tokenizer),
        )
        found = [teacher, self.onnx("teacher-onnx", teacher)]
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
        exported = self.onnx("student-onnx", student)
        found += [student, exported]
        found += [self.onnx(f"student-{name}", exported) for name in quantised(plan.recipe)]
        for format, precision in other_formats(plan.recipe):
            parent = student if precision == FP32 else exported
            found.append(replace(self.onnx(f"student-{format}-{precision}", parent), opset=0))
        if "verify-aware" not in self.log.done:
            return found
        assert proof is not None, "what was verified twice has a proof"
        *rest, aware = self.trained_on(student)
        plain = next(v for v in found if v.name == f"student-{INT8}")
        settled, aware = better_of(plain, aware, proof)
        return [*(settled if v is plain else v for v in found), *rest, aware]

    def student(self) -> Variant:
        """Return the student as it was trained."""
        trained = self.log.done["distilled"].artifact
        return Variant(
            name="student",
            role="student",
            format="torch",
            precision="fp32",
            path=trained.root,
            digest=trained.files[SINGLE],
            parameters=int(trained.facts["parameters"]),
            published=SINGLE,
        )

    def trained_on(self, student: Variant) -> list[Variant]:
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
        exported = self.onnx("student-aware-onnx", own)
        file = self.onnx(AWARE, exported)
        rounded = replace(own, name="student-aware-rounded", rounded=exported.path)
        file = replace(file, held_to="student-onnx", like=rounded.name, published=onnx_file(INT8))
        return [own, replace(exported, published="", candidate=False), rounded, file]

    def onnx(self, name: str, parent: Variant) -> Variant:
        """Return the file a step wrote, of whatever format, as one made of its parent."""
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
