"""What the names of placements stand for: how students are held, which teachers are in pieces."""

from collections.abc import Mapping
from pathlib import Path

from toolchain.distill.engine import Holding, Whole
from toolchain.distill.teachers import Readable
from toolchain.models.family import Family
from toolchain.scale import processes
from toolchain.spec import ModelSpec

__all__ = ["holding_of", "sharded_teacher"]


def holding_of(placement: str) -> Holding:
    """Return how a student at this placement is held while it trains."""
    match placement:
        case "zero1" | "zero2" | "zero3" | "offload":
            from toolchain.scale.deepspeed import Sharding

            return Sharding(placement)
        case _:
            return Whole


def sharded_teacher(
    placement: str,
    folder: Path,
    family: Family,
    spec: ModelSpec,
    *,
    labels: Mapping[int, str] | None = None,
    seed: int = 0,
) -> Readable | None:
    """Return the teacher in a folder in pieces; None where this placement has it in one."""
    match placement:
        case "zero3" | "offload":
            from toolchain.scale.teachers import ShardedTeacher

            return ShardedTeacher(
                folder=folder,
                family=family,
                spec=spec,
                placement=placement,
                labels=labels,
                seed=seed,
            )
        case "tensor_parallel" if processes.ranks() > 1:
            from toolchain.scale.cut import CutModel

            return CutModel(folder=folder, family=family, spec=spec, labels=labels, seed=seed)
        case _:
            return None
