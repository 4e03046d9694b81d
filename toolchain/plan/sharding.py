"""Placements in pieces: what they need of this machine, and what cannot be taken apart."""

from collections.abc import Sequence

from toolchain import hardware
from toolchain.distill.operators import AdvEmbed, StudentGenerate, StudentReplay, TeacherMixed
from toolchain.errors import UsageError
from toolchain.plan.types import StagePlan
from toolchain.recipe import Placement
from toolchain.scale import processes
from toolchain.scale.requirements import check_deepspeed, check_transformers

__all__ = ["check_sharding"]

_STUDENT = ("zero1", "zero2", "zero3", "offload")
_TEACHER = ("zero3", "offload")


def check_sharding(placement: Placement, stages: Sequence[StagePlan]) -> None:
    """Refuse placements in pieces that cannot work here. Raises UsageError."""
    for stage in stages:
        if stage.batch_size < processes.ranks():
            raise UsageError(
                f"stage {stage.name} has batches of {stage.batch_size} rows for "
                f"{processes.ranks()} processes",
                "raise train.batch_size, or start fewer processes",
            )
    cut = placement.teacher == "tensor_parallel" and processes.ranks() > 1
    if cut:
        check_transformers("placement.teacher=tensor_parallel")
    student, teacher = placement.student in _STUDENT, placement.teacher in _TEACHER
    for role, wanted, sharded in (
        ("student", placement.student, student),
        ("teacher", placement.teacher, teacher),
    ):
        if sharded:
            check_deepspeed(f"placement.{role}={wanted}", cuda=hardware.has_cuda())
    for stage in stages:
        if teacher or cut:
            _check_teacher(placement.teacher, stage)
        if placement.student == "zero3":
            _check_zero3_student(stage)


def _check_teacher(wanted: str, stage: StagePlan) -> None:
    if stage.parts.surgery is not None:
        raise UsageError(
            f"placement.teacher={wanted}: {stage.parts.surgery.key} takes modules of the teacher, "
            "which must be whole",
            "use placement.teacher=whole, or a method without surgery",
        )
    for operator in stage.parts.operators:
        if operator.speaks_with:
            raise UsageError(
                f"placement.teacher={wanted}: {operator.key} writes text with the teacher, token "
                "by token, and every process texts of its own length",
                "use placement.teacher=whole, or gkd_onpolicy, which has it read whole texts",
            )
    _check_states(f"placement.teacher={wanted}", stage)


def _check_zero3_student(stage: StagePlan) -> None:
    where = "placement.student=zero3"
    if stage.parts.surgery is not None:
        raise UsageError(
            f"{where}: {stage.parts.surgery.key} changes modules of the student, which must "
            "be whole",
            "use zero2, which keeps weights whole, or a method without surgery",
        )
    _check_states(where, stage)
    for operator in stage.parts.operators:
        if isinstance(operator, StudentGenerate | StudentReplay | TeacherMixed):
            raise UsageError(
                f"{where}: {operator.key} has every process write texts of its own length, and "
                "weights are gathered only where all processes run the same layers",
                "use zero2, which keeps weights whole",
            )
        plain = [b.name for b in stage.terms if b.term.view == "plain"]
        if isinstance(operator, AdvEmbed) and plain:
            raise UsageError(
                f"{where}: {operator.key} and term {plain[0]!r} both go back through the plain "
                "pass, and gathered weights are there once",
                "use zero2, which keeps weights whole",
            )


def _check_states(where: str, stage: StagePlan) -> None:
    for bound in stage.terms:
        if bound.term.extract.kind == "states":
            raise UsageError(
                f"{where}: term {bound.name!r} reads the weights of a model's last layer, which "
                "are whole only while it runs",
                "use zero2 for the student and whole for the teacher, or another method",
            )
