"""Each chosen teacher layer beside the student layer nearest to it at the moment (CoFi)."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from toolchain.distill.context import Context
from toolchain.distill.matching.costs import summed_costs
from toolchain.distill.matching.static import Matching, Pair
from toolchain.errors import UsageError
from toolchain.layermap import LayerMap
from toolchain.lazy import lazy

if TYPE_CHECKING:
    import torch
    from torch import Tensor
    from torch.nn import Module
else:
    torch = lazy("torch")

__all__ = ["DynamicArgmin", "monotone_assignment"]

_QUARTERS = 4


@dataclass(frozen=True)
class DynamicArgmin(Matching):
    """m(i) = the student block nearest to teacher block i, in order; CoFi, arXiv 2204.00408.

    Of all ways to give each of `teacher_layers` (default: the quarter points, 3 6 9 12 of 12) a
    student block of its own in the same order, the one with the smallest sum of distances over the
    global batch is taken, in every step. The authors' code chooses greedily from the top instead.
    Only blocks that a surgery has left standing are chosen; where they are fewer than the teacher
    layers, a block may be used again.
    """

    key: ClassVar[str] = "dynamic_argmin"
    any_depth: ClassVar[bool] = True
    teacher_layers: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        """Refuse layers out of order."""
        if list(self.teacher_layers) != sorted(set(self.teacher_layers)):
            raise UsageError(
                f"match dynamic_argmin: teacher_layers are {list(self.teacher_layers)}, expected "
                "them in ascending order, each once"
            )

    def layers(self, student: int, teacher: int) -> LayerMap:
        """Return every student block with every chosen teacher block."""
        quarters = (-(-teacher * i // _QUARTERS) for i in range(1, _QUARTERS + 1))
        chosen = self.teacher_layers or tuple(dict.fromkeys(quarters))
        return LayerMap(tuple((s, t) for s in range(1, student + 1) for t in chosen))

    def pair(
        self,
        layer_map: LayerMap,
        student: "Mapping[int, Tensor]",
        teacher: "Mapping[int, Tensor]",
        context: Context,
    ) -> Iterator[Pair]:
        """Yield every pair of a block that stands."""
        standing = _standing(layer_map, context)
        for s, t in layer_map:
            if s in standing:
                yield Pair(student[s], teacher[t], t)

    def combine(
        self,
        layer_map: LayerMap,
        numerators: "Sequence[Tensor]",
        module: "Module | None",  # noqa: ARG002
        context: Context,
    ) -> "Tensor":
        """Return the rows' sums over the pairs of the best assignment."""
        depth, chosen = len(_standing(layer_map, context)), len(layer_map.teacher)
        costs = summed_costs(numerators)
        grid = [costs[s * chosen : (s + 1) * chosen] for s in range(depth)]
        found = monotone_assignment([list(column) for column in zip(*grid, strict=True)])
        pairs = [numerators[s * chosen + t] for t, s in enumerate(found)]
        return torch.stack(pairs).sum(0)


def _standing(layer_map: LayerMap, context: Context) -> tuple[int, ...]:
    if context.standing is None:
        return layer_map.student
    return tuple(layer for layer in layer_map.student if layer in context.standing)


def monotone_assignment(costs: "Sequence[Sequence[float]]") -> list[int]:
    """Return for each of the rows a column, ascending, with the smallest sum of costs.

    Columns are used once where there are enough of them, else they may repeat.
    """
    width = len(costs[0])
    step = 1 if len(costs) <= width else 0
    best, choices = list(costs[0]), []
    for row in costs[1:]:
        # The best column so far up to each column: argmin over prefixes.
        prefix: list[int] = []
        for column in range(width):
            last = prefix[-1] if prefix else 0
            prefix.append(column if best[column] < best[last] else last)
        infinite = float("inf")
        choices.append([prefix[c - step] if c >= step else -1 for c in range(width)])
        best = [
            row[c] + best[choices[-1][c]] if choices[-1][c] >= 0 else infinite for c in range(width)
        ]
    column = min(range(width), key=best.__getitem__)
    found = [column]
    for chosen in reversed(choices):
        column = chosen[column]
        found.append(column)
    return found[::-1]
