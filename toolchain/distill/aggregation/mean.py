"""Every teacher counts the same, and together they count as one."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from toolchain.distill.aggregation.aggregation import Aggregation, Said

if TYPE_CHECKING:
    from torch import Tensor
    from torch.nn import Module

__all__ = ["Mean"]


@dataclass(frozen=True)
class Mean(Aggregation):
    """1 / K for each of K teachers."""

    key: ClassVar[str] = "mean"
    reads_teachers: ClassVar[bool] = False

    def weights(self, said: Said, module: "Module | None") -> "Tensor":  # noqa: ARG002
        """Return 1 / K everywhere, (K, P)."""
        teachers = len(said.teachers)
        return said.student.new_full((teachers, said.student.shape[0]), 1.0 / teachers)
