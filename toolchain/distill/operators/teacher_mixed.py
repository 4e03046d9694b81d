"""TeacherMixed: text of which the teacher says a part, in a view beside the data."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from toolchain.distill.context import Moment
from toolchain.distill.operators.operator import Operator, Passes, View
from toolchain.distill.operators.student_generate import StudentGenerate
from toolchain.distill.shapes import Unfit
from toolchain.lazy import lazy
from toolchain.spec import ModelSpec

if TYPE_CHECKING:
    import torch
else:
    torch = lazy("torch")

__all__ = ["TeacherMixed"]


@dataclass(frozen=True)
class TeacherMixed(Operator):
    """Answer the batch's prompts with tokens drawn from alpha p + (1 - alpha) q; read them anew.

    Teacher-mixed sampling of MiniLLM (Gu et al. 2024, arXiv 2306.08543, section 2.2), in every
    step: p is the teacher's distribution of the next token, q the student's, both at temperature 1,
    which keeps what is said near to what the teacher would say. No gradient flows through the
    sampling. The plain view stays that of the data. Rows without a prompt are answered from their
    first token on.
    """

    key: ClassVar[str] = "teacher_mixed"
    reruns: ClassVar[str] = "the teacher judges text that it and the student write while it learns"
    invents_labels: ClassVar[bool] = True
    asks_teachers: ClassVar[bool] = True
    one_teacher: ClassVar[bool] = True
    alpha: float = 0.2

    def check(self, student: ModelSpec, teacher: ModelSpec) -> None:
        """Require decoders of one vocabulary, and a share that leaves the student a part."""
        if not 0 <= self.alpha < 1:
            raise Unfit(
                f"the teacher's share of the text is {self.alpha:g}", "give one of 0 to below 1"
            )
        StudentGenerate().check(student, teacher)
        if student.vocab != teacher.vocab:
            raise Unfit(
                f"it mixes distributions over tokens: the student has {student.vocab}, the "
                f"teacher {teacher.vocab}",
                "give the student the teacher's vocabulary",
            )

    def view(self, plain: View, passes: Passes, moment: Moment) -> View:
        """Write the texts, and run both models on them."""
        seed = int(torch.randint(1 << 31, (), generator=moment.draw(self.key, moment.step)))
        batch = passes.generate(plain.batch, tau=1.0, seed=seed, teacher=self.alpha)
        teachers = (passes.teacher(i, batch, {}) for i, _ in enumerate(passes.teacher_specs))
        return View(batch, passes.student(batch, {}), tuple(teachers))
