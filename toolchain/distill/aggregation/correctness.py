"""Teachers count by how right they are about a row."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from toolchain.distill.aggregation.aggregation import Aggregation, Said
from toolchain.distill.stages import Stage
from toolchain.lazy import lazy

if TYPE_CHECKING:
    import torch
    from torch import Tensor
    from torch.nn import Module
else:
    torch = lazy("torch")

__all__ = ["Correctness"]


@dataclass(frozen=True)
class Correctness(Aggregation):
    """1 / (1 + CE_k(x)): the teacher's own loss on the gold label (MT-BERT, arXiv 2106.01023).

    The weights are not normalised: two teachers that are both wrong teach little. For a regression
    the loss is the squared error.
    """

    key: ClassVar[str] = "correctness"
    needs_teachers: ClassVar[int] = 1
    needs_labels: ClassVar[bool] = True
    stages: ClassVar[tuple[Stage, ...]] = ("inter", "pred")

    def weights(self, said: Said, module: "Module | None") -> "Tensor":  # noqa: ARG002
        """Return weights in (0, 1], (K, P)."""
        return torch.stack([1 / (1 + said.gold_loss(logits)) for logits in said.teachers])
