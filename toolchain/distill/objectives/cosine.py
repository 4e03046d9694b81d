"""One minus the cosine of two vectors: direction alone, whatever their lengths."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from toolchain.distill.context import Context
from toolchain.distill.objectives.objective import Objective, at_least_fp32
from toolchain.lazy import lazy

if TYPE_CHECKING:
    import torch
    from torch import Tensor
    from torch.nn import Module
else:
    torch = lazy("torch")

__all__ = ["Cos"]


@dataclass(frozen=True)
class Cos(Objective):
    """1 - cos(s, t) over the last axis, in [0, 2]; DistilBERT (arXiv 1910.01108).

    Half the squared distance of the two vectors brought to length one. A zero vector has cosine 0.
    """

    key: ClassVar[str] = "cos"

    def __call__(
        self,
        student: "Tensor",
        teacher: "Tensor",
        context: Context,  # noqa: ARG002
        module: "Module | None" = None,  # noqa: ARG002
    ) -> "Tensor":
        """(..., F) twice -> (...)."""
        pair = at_least_fp32(student), at_least_fp32(teacher)
        return 1 - torch.nn.functional.cosine_similarity(*pair, dim=-1)
