"""Every row several times over, for models that each answer a part of one batch."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from toolchain.distill.context import Moment
from toolchain.distill.operators.operator import Operator, Passes
from toolchain.distill.stages import STAGES, Stage
from toolchain.lazy import lazy

if TYPE_CHECKING:
    import torch

    from toolchain.data.batching import Batch
else:
    torch = lazy("torch")

__all__ = ["Repeat"]


@dataclass(frozen=True)
class Repeat(Operator):
    """The whole batch `times` over, one copy after another: a mean over it is one over copies."""

    key: ClassVar[str] = "repeat"
    stages: ClassVar[tuple[Stage, ...]] = STAGES
    times: int = 2

    def prepare(self, batch: "Batch", passes: Passes, moment: Moment) -> "Batch":  # noqa: ARG002
        """Return the longer batch."""
        # Imported here: the data layer's batches need torch.
        from toolchain.data.batching import Batch

        inputs = {name: torch.cat([x] * self.times) for name, x in batch.inputs.items()}
        return Batch(inputs, torch.cat([batch.labels] * self.times), batch.rows * self.times)
