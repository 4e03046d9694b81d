"""TeacherGenerate: the answers of the training data are replaced by the teacher's, beforehand."""

from dataclasses import dataclass
from typing import ClassVar

from toolchain.distill.operators.operator import Operator
from toolchain.distill.shapes import Unfit
from toolchain.spec import ModelSpec

__all__ = ["TeacherGenerate"]


@dataclass(frozen=True)
class TeacherGenerate(Operator):
    """Train on what beam search of `beams` finds in the teacher (Kim and Rush 2016).

    The answers are written once, before the stage (`toolchain.steps.generate`), as text, so the
    tokenizers may differ. With `closest` (Seq-Inter, section 3.3) the beam's answer closest to the
    reference is taken instead of the most probable one.
    """

    key: ClassVar[str] = "teacher_generate"
    reruns: ClassVar[str] = "the teacher writes the rows that would be cached"
    beams: int = 5
    closest: bool = False

    def check(self, student: ModelSpec, teacher: ModelSpec) -> None:
        """Require decoders, and settings that can be."""
        if self.beams < 1:
            raise Unfit(f"a beam of {self.beams} finds nothing", "give at least 1, such as 5")
        if self.closest and self.beams == 1:
            raise Unfit("with a beam of 1 there is nothing to choose from", "give beams: 5")
        for side, spec in (("student", student), ("teacher", teacher)):
            if spec.task != "causal_lm":
                raise Unfit(
                    f"the teacher writes answers for the student to learn: the {side} is a model "
                    f"for {spec.task}",
                    "use causal language models, and data with prompts and answers",
                )
