"""Each teacher is kept or dropped for a step by a coin of its own."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from toolchain.distill.aggregation.aggregation import Aggregation, Said
from toolchain.distill.objectives.settings import require_fraction
from toolchain.lazy import lazy

if TYPE_CHECKING:
    import torch
    from torch import Tensor
    from torch.nn import Module
else:
    torch = lazy("torch")

__all__ = ["BernoulliKeep"]


@dataclass(frozen=True)
class BernoulliKeep(Aggregation):
    """b_k in {0, 1} with P(b_k = 1) = survival, drawn per step and not rescaled (DGKD, 2009.08825).

    A single teacher is never dropped: what is dropped are guides among others.
    """

    key: ClassVar[str] = "bernoulli_keep"
    reads_teachers: ClassVar[bool] = False
    survival: float = 0.75

    def __post_init__(self) -> None:
        """Refuse what is no probability."""
        require_fraction(self.key, "survival", self.survival)

    def weights(self, said: Said, module: "Module | None") -> "Tensor":  # noqa: ARG002
        """Return 1 for the teachers kept in this step, 0 for the others, (K, P)."""
        moment = said.context.moment
        teachers, rows = len(said.teachers), said.student.shape[0]
        if teachers == 1:
            return said.student.new_ones((1, rows))
        drawn_K = torch.rand(teachers, generator=moment.draw(self.key, moment.step))
        kept_K = (drawn_K < self.survival).to(said.student)
        return kept_K[:, None].expand(teachers, rows)
