"""Each student layer reads a mixture of teacher layers, weighed by their likeness to it.

Shape letters: K teacher layers, D the last axis of what is compared; "..." is whatever stands
before it (sequences, tokens, rows of logits).
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal

from toolchain.distill.context import Context
from toolchain.distill.matching.static import Matching, Pair
from toolchain.layermap import LayerMap
from toolchain.lazy import lazy

if TYPE_CHECKING:
    import torch
    from torch import Tensor
else:
    torch = lazy("torch")

__all__ = ["AttnWeighted"]


@dataclass(frozen=True)
class AttnWeighted(Matching):
    """c_l = sum_k eps_lk h_k^T with eps_l = softmax over k of <h_l^S, h_k^T>; arXiv 2012.14022.

    ALP-KD. `buckets`: "all" teacher blocks for every student block; "separate" ones cut the
    teacher's blocks into L_S runs of equal length (ALP-NO); "overlapping" ones reach one block
    further on both sides (ALP-PO). The gradient flows through the distance and, unless `attn_grad`
    is false (steadier), through the weights eps. Dot products of wide states drive eps towards one
    layer: `entropy` says how far.
    """

    key: ClassVar[str] = "attn_weighted"
    attn_grad: bool = True
    buckets: Literal["all", "separate", "overlapping"] = "all"

    def layers(self, student: int, teacher: int) -> LayerMap:
        """Return every student block with the teacher blocks it may read."""
        return LayerMap(
            tuple(
                (s, t)
                for s in range(1, student + 1)
                for t in self._bucket(s, student=student, teacher=teacher)
            )
        )

    def _bucket(self, layer: int, *, student: int, teacher: int) -> range:
        if self.buckets == "all":
            return range(1, teacher + 1)
        reach = 1 if self.buckets == "overlapping" else 0
        first = (layer - 1) * teacher // student + 1
        last = layer * teacher // student
        return range(max(1, first - reach), min(teacher, last + reach) + 1)

    def pair(
        self,
        layer_map: LayerMap,
        student: "Mapping[int, Tensor]",
        teacher: "Mapping[int, Tensor]",
        context: Context,  # noqa: ARG002
    ) -> Iterator[Pair]:
        """Yield one pair per student block: its state and the mixture made for it."""
        for s in layer_map.student:
            read = [t for own, t in layer_map if own == s]
            layers = [teacher[t] for t in read]
            weights = self.weights(student[s], layers)
            mixture = (weights.unsqueeze(-1) * torch.stack(layers)).sum(0)
            yield Pair(student[s], mixture, read[-1])

    def pair_count(self, layer_map: LayerMap) -> int:
        """Return one pair per student block."""
        return len(layer_map.student)

    def mixed(self, layer_map: LayerMap) -> float:
        """Return the tensors of stacked layers and their weighed copies, and the mixtures."""
        return 2.0 * len(layer_map.pairs) + len(layer_map.student)

    def weights(self, student: "Tensor", teachers: "Sequence[Tensor]") -> "Tensor":
        """Return eps, (K, ...), from one student layer (..., D) and K teacher layers (..., D)."""
        scores = torch.stack([(student * layer).sum(-1) for layer in teachers])
        weights: Tensor = scores.softmax(0)
        return weights if self.attn_grad else weights.detach()

    @staticmethod
    def entropy(weights: "Tensor") -> "Tensor":
        """Return the entropy of eps, (...), in nats: 0 for one layer alone, log K when even."""
        entropy: Tensor = -torch.special.xlogy(weights, weights).sum(0)
        return entropy
