"""How long a run takes and what it writes, from shapes alone: estimates, and called so.

Constants were fitted on a 2-core AVX512-BF16 machine (facts.md section 3) and are rough elsewhere.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from toolchain.spec import ModelSpec

__all__ = ["Estimate", "disk_bytes", "seconds"]

# Part of the GEMM rate a forward pass and a training step reach.
_FORWARD, _TRAINING = 0.6, 0.35


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """Bytes of memory and disk at the peak; seconds are None until the machine was probed."""

    memory_bytes: int
    disk_bytes: int
    seconds: float | None = None


def disk_bytes(
    teacher: ModelSpec, student: ModelSpec, *, finetunes: bool, baseline: bool, targets: int
) -> int:
    """Return bytes on disk at the peak, working state of unfinished steps included."""
    t, s = teacher.bytes(), student.bytes()
    teacher_files = t + (t + 3 * t if finetunes else 0)
    runs = 2 if baseline else 1
    trained = s + runs * s + 4 * s
    shipped = 2 * (s + s // 3) + s + targets * s
    return teacher_files + trained + shipped


def seconds(
    stages: Sequence[tuple[int, int, Sequence[ModelSpec], ModelSpec]],
    *,
    tokens: float,
    flops_per_s: float,
) -> float:
    """Return seconds for stages given as (steps, batch, teachers that are read, student)."""
    total = 0.0
    for steps, batch, teachers, student in stages:
        rows = steps * batch
        # A multiply-accumulate is two operations; backward costs twice the forward.
        for teacher in teachers:
            total += rows * 2 * teacher.macs(round(tokens)) / (_FORWARD * flops_per_s)
        total += rows * 6 * student.macs(round(tokens)) / (_TRAINING * flops_per_s)
    return total
