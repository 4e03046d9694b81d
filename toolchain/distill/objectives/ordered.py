"""Probabilities compared by rank, blind to which outcome is which: for unequal vocabularies."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from toolchain.distill.context import Context
from toolchain.distill.objectives.objective import Objective, log_softmax
from toolchain.distill.shapes import Shape, Unfit
from toolchain.lazy import lazy

if TYPE_CHECKING:
    import torch
    from torch import Tensor
    from torch.nn import Module
else:
    torch = lazy("torch")

__all__ = ["L1Sorted"]


@dataclass(frozen=True)
class L1Sorted(Objective):
    """Sum of |p - q| over probabilities sorted downwards, the shorter side padded with zeros.

    ULD (arXiv 2402.12030), a Wasserstein distance between sorted distributions. Unchanged
    by permutations of either vocabulary, hence blind to which token is which.
    """

    key: ClassVar[str] = "l1_sorted"
    distribution: ClassVar[bool] = True
    any_tokens: ClassVar[bool] = True
    held: ClassVar[float] = 4.0
    spare: ClassVar[float] = 5.0

    def resolve(self, student: Shape, teacher: Shape) -> "Objective":
        """Accept logits of two outcomes or more, of any two sizes. Raises Unfit."""
        if student.positions != "logits":
            raise Unfit("it sorts the probabilities of logits", "use knowledge: logits")
        if 1 in (student.features, teacher.features):
            return super().resolve(student, student)
        return self

    def __call__(
        self,
        student: "Tensor",
        teacher: "Tensor",
        context: Context,
        module: "Module | None" = None,  # noqa: ARG002
    ) -> "Tensor":
        """(P, C) and (P, V) -> (P,)."""
        q = log_softmax(student, 1.0, context).exp().sort(dim=-1, descending=True).values
        p = log_softmax(teacher, 1.0, context).exp().sort(dim=-1, descending=True).values
        missing = p.shape[-1] - q.shape[-1]
        pad = torch.nn.functional.pad
        difference = pad(q, (0, max(missing, 0))) - pad(p, (0, max(-missing, 0)))
        return difference.abs().sum(-1)
