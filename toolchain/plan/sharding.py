"""Placements in pieces: what they need of this machine, and what cannot be taken apart."""

from collections.abc import Sequence

from toolchain import hardware
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
