"""Every teacher counts the same, and each counts as one."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from toolchain.distill.aggregation.aggregation import Aggregation, Said

if TYPE_CHECKING:
    from torch import Tensor
    from torch.nn import Module

__all__ = ["Sum"]


@dataclass(frozen=True)
class Sum(Aggregation):
    """1 for each teacher."""

    key: ClassVar[str] = "sum"
    reads_teachers: ClassVar[bool] = False

    def weights(self, said: Said, module: "Module | None") -> "Tensor":  # noqa: ARG002
        """Return 1 everywhere, (K, P)."""
        return said.student.new_ones((len(said.teachers), said.student.shape[0]))
