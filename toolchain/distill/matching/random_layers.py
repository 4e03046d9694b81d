"""Teacher layers drawn anew in every epoch (RAIL-KD)."""

import itertools
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from toolchain.distill.context import Context, Moment
from toolchain.distill.matching.static import Matching, Pair
from toolchain.layermap import LayerMap
from toolchain.lazy import lazy

if TYPE_CHECKING:
    import torch
    from torch import Tensor
else:
    torch = lazy("torch")

__all__ = ["Random"]


@dataclass(frozen=True)
class Random(Matching):
    """The student's inner blocks 1..L_S-1 with as many of the teacher's 1..L_T-1, drawn and sorted.

    RAIL-KD (arXiv 2109.10164): without replacement, anew per epoch; the final blocks are left to
    the logits. The draw follows from the seed and the epoch alone, so that a resumed run and every
    rank draw the same layers. With L_S = L_T it is the identity.

    `summed` adds up the drawn layers of each side into one pair: after a bias-free projection per
    layer that is one projection of all layers' vectors set side by side.
    """

    key: ClassVar[str] = "random"
    summed: bool = False

    def layers(self, student: int, teacher: int) -> LayerMap:
        """Return every pair that some draw can give."""
        spare = teacher - student
        return LayerMap(tuple((s, s + i) for s in range(1, student) for i in range(spare + 1)))

    def pair_count(self, layer_map: LayerMap) -> int:
        """Return one pair per student block, or one in all."""
        return 1 if self.summed else len(layer_map.student)

    def mixed(self, layer_map: LayerMap) -> float:
        """Return the tensors of stacked layers of both sides."""
        return 2.0 * len(layer_map.student) if self.summed else 0.0

    def drawn(self, layer_map: LayerMap, moment: Moment) -> tuple[tuple[int, int], ...]:
        """Return the pairs of the moment's epoch."""
        students, teachers = layer_map.student, sorted(layer_map.teacher)
        order = torch.randperm(
            len(teachers), generator=moment.draw("random layers", moment.epoch)
        ).tolist()
        chosen = sorted(teachers[i] for i in itertools.islice(order, len(students)))
        return tuple(zip(students, chosen, strict=True))

    def pair(
        self,
        layer_map: LayerMap,
        student: "Mapping[int, Tensor]",
        teacher: "Mapping[int, Tensor]",
        context: Context,
    ) -> Iterator[Pair]:
        """Yield the drawn pairs, or their sums."""
        drawn = self.drawn(layer_map, context.moment)
        if not self.summed:
            for s, t in drawn:
                yield Pair(student[s], teacher[t], t)
            return
        yield Pair(
            torch.stack([student[s] for s, _ in drawn]).sum(0),
            torch.stack([teacher[t] for _, t in drawn]).sum(0),
            drawn[-1][1],
        )
