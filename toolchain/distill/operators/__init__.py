"""What changes a batch or makes further views of it: one file per data operator."""

from toolchain.distill.operators.adv_embed import AdvEmbed
from toolchain.distill.operators.interchange import Interchange
from toolchain.distill.operators.operator import Judge, Operator, Passes, View
from toolchain.distill.operators.student_generate import StudentGenerate
from toolchain.distill.operators.student_replay import StudentReplay
from toolchain.distill.operators.teacher_generate import TeacherGenerate
from toolchain.distill.operators.teacher_mixed import TeacherMixed

__all__ = [
    "AdvEmbed",
    "Interchange",
    "Judge",
    "Operator",
    "Passes",
    "StudentGenerate",
    "StudentReplay",
    "TeacherGenerate",
    "TeacherMixed",
    "View",
]
