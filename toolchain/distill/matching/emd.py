"""Every student layer with every teacher layer, weighed by the earth mover's distance."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from toolchain.distill.context import Context
from toolchain.distill.matching.costs import summed_costs
from toolchain.distill.matching.static import Matching
from toolchain.distill.matching.transport import transport
from toolchain.layermap import LayerMap
from toolchain.lazy import lazy

if TYPE_CHECKING:
    import torch
    from torch import Tensor
    from torch.nn import Module

    from toolchain.distill.matching.layer_weights import LayerWeights
else:
    torch = lazy("torch")

__all__ = ["Emd"]


@dataclass(frozen=True)
class Emd(Matching):
    """sum_ij f_ij d_ij with the flow f that makes it smallest; BERT-EMD, arXiv 2010.06133.

    Row sums of f are the student layers' weights, column sums the teacher layers'; they start even
    and are learned over the run unless `learn` is false. The flow is exact, without a gradient, and
    one for the global batch, so values of micro-batches do not add up. One layer on each side gives
    that pair's distance. Terms with the same `group` share the weights, as attention and hidden
    states do in the paper.
    """

    key: ClassVar[str] = "emd"
    any_depth: ClassVar[bool] = True
    learn: bool = True
    group: str = "emd"

    def layers(self, student: int, teacher: int) -> LayerMap:
        """Return all pairs of blocks."""
        return LayerMap(tuple((s, t) for s in range(1, student + 1) for t in range(1, teacher + 1)))

    def module(self, layer_map: LayerMap) -> "LayerWeights":
        """Return the layers' weights."""
        # Imported here: declaring a matching must not load torch.
        from toolchain.distill.matching.layer_weights import LayerWeights

        return LayerWeights(len(layer_map.student), len(layer_map.teacher), learn=self.learn)

    def combine(
        self,
        layer_map: LayerMap,
        numerators: "Sequence[Tensor]",
        module: "Module | None",
        context: Context,  # noqa: ARG002
    ) -> "Tensor":
        """Return the rows' distances, each pair weighed by its flow."""
        from toolchain.distill.matching.layer_weights import LayerWeights

        assert isinstance(module, LayerWeights)
        width = len(layer_map.teacher)
        costs = summed_costs(numerators)
        grid = [costs[i : i + width] for i in range(0, len(costs), width)]
        if not all(map(math.isfinite, costs)):
            # No flow exists; the broken value goes on to the trainer, which names the step.
            return torch.stack(tuple(numerators)).sum(0)
        flow = transport(module.student.tolist(), module.teacher.tolist(), grid)
        module.moved(
            [[f * d for f, d in zip(*rows, strict=True)] for rows in zip(flow, grid, strict=True)]
        )
        rows = torch.stack(tuple(numerators))
        shares = rows.new_tensor([f for line in flow for f in line])
        return (shares.unsqueeze(-1) * rows).sum(0)
