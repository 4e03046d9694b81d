"""Which teacher layer a student layer reads: the matching axis.

A matching says beforehand which layers it needs (`layers`) and pairs the captured tensors in
every step (`pair`); the values of the pairs become one (`combine`). Static ones pair by a fixed
map; others draw pairs anew, mix several teacher layers, or weigh pairs by their distance.

Shape letters: B batch, N tokens, D width, S and T numbers of layers.
"""

from abc import abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, NamedTuple

from toolchain import layermap
from toolchain.distill.context import Context
from toolchain.distill.shapes import Unfit
from toolchain.layermap import LayerMap
from toolchain.lazy import lazy

if TYPE_CHECKING:
    import torch
    from torch import Tensor
    from torch.nn import Module
else:
    torch = lazy("torch")

__all__ = [
    "First",
    "Last",
    "LastK",
    "Matching",
    "Pair",
    "Pairs",
    "Reverse",
    "Same",
    "Skip",
    "Stack",
    "Uniform",
    "Whole",
]


class Pair(NamedTuple):
    """Two tensors to compare, and the teacher layer they stand for (for guidance)."""

    student: "Tensor"
    teacher: "Tensor"
    teacher_layer: int


class Matching:
    """Decides which layers are compared. Base of all: pairs as the map says, values summed.

    `stacked` matchings hand all layers to the transforms as one tensor (B, N, L, D). `any_depth`
    ones make sense for a student deeper than its teacher too. Terms whose matchings have the same
    non-empty `group` share one module.
    """

    key: ClassVar[str] = ""
    stacked: ClassVar[bool] = False
    any_depth: ClassVar[bool] = False
    group: str = ""

    @abstractmethod
    def layers(self, student: int, teacher: int) -> LayerMap:
        """Return every pair of layers that may be needed of these depths. Raises Unfit."""

    def module(self, layer_map: LayerMap) -> "Module | None":  # noqa: ARG002
        """Return what the matching learns or remembers, or None."""
        return None

    def pair(
        self,
        layer_map: LayerMap,
        student: "Mapping[int, Tensor]",
        teacher: "Mapping[int, Tensor]",
        context: Context,  # noqa: ARG002
    ) -> Iterator[Pair]:
        """Yield what to compare in this step."""
        for s, t in layer_map:
            yield Pair(student[s], teacher[t], t)

    def pair_count(self, layer_map: LayerMap) -> int:
        """Return how many pairs `pair` yields."""
        return 1 if self.stacked else len(layer_map.pairs)

    def mixed(self, layer_map: LayerMap) -> float:  # noqa: ARG002
        """Return how many tensors of the teacher's size it makes and holds."""
        return 0.0

    def combine(
        self,
        layer_map: LayerMap,  # noqa: ARG002
        numerators: "Sequence[Tensor]",
        module: "Module | None",  # noqa: ARG002
        context: Context,  # noqa: ARG002
    ) -> "Tensor":
        """Return one numerator per row (R,) from those of the pairs, in the order of `pair`."""
        return torch.stack(tuple(numerators)).sum(0)


@dataclass(frozen=True)
class Whole(Matching):
    """For knowledge that exists once per model: logits, labels, embeddings."""

    key: ClassVar[str] = "final"

    def layers(self, student: int, teacher: int) -> LayerMap:  # noqa: ARG002
        """Return one pair that stands for the models themselves."""
        return LayerMap(((0, 0),))


@dataclass(frozen=True)
class Uniform(Matching):
    """g(l) = round(l L_T / L_S), the final block included (TinyBERT)."""

    key: ClassVar[str] = "uniform"
    embeddings: bool = False

    def layers(self, student: int, teacher: int) -> LayerMap:
        """Return the uniform map, with the embedding layer where asked."""
        blocks = layermap.uniform(student, teacher)
        return LayerMap(((0, 0), *blocks.pairs)) if self.embeddings else blocks


@dataclass(frozen=True)
class Skip(Matching):
    """Uniform without the final block, which the logits supervise (PKD-Skip)."""

    key: ClassVar[str] = "skip"

    def layers(self, student: int, teacher: int) -> LayerMap:
        """Return the uniform map without its last pair."""
        return layermap.skip(student, teacher)


@dataclass(frozen=True)
class First(Matching):
    """Block l with block l."""

    key: ClassVar[str] = "first"

    def layers(self, student: int, teacher: int) -> LayerMap:
        """Return the identity on the student's blocks."""
        return layermap.first(student, teacher)


@dataclass(frozen=True)
class Same(Matching):
    """Block l with block l of an equally deep teacher (MobileBERT)."""

    key: ClassVar[str] = "same"

    def layers(self, student: int, teacher: int) -> LayerMap:
        """Return the identity on the blocks. Raises Unfit for unequal depths."""
        if student != teacher:
            raise Unfit(
                f"blocks are compared one to one: the student has {student}, the teacher {teacher}",
                f"give the student {teacher} layers, or use sid, which spreads them",
            )
        return LayerMap(tuple((layer, layer) for layer in range(1, student + 1)))


@dataclass(frozen=True)
class Last(Matching):
    """The student's last block with one teacher block; negative counts from the teacher's end."""

    key: ClassVar[str] = "last"
    any_depth: ClassVar[bool] = True
    teacher_layer: int = -1

    def layers(self, student: int, teacher: int) -> LayerMap:
        """Return the one pair."""
        layer = self.teacher_layer
        return LayerMap(((student, teacher + 1 + layer if layer < 0 else layer),))


@dataclass(frozen=True)
class LastK(Matching):
    """The student's blocks with the teacher's last ones, in order (PKD-Last without `final`)."""

    key: ClassVar[str] = "last_k"
    final: bool = True

    def layers(self, student: int, teacher: int) -> LayerMap:
        """Return l <- l + L_T - L_S."""
        top = student if self.final else student - 1
        return LayerMap(tuple((s, s + teacher - student) for s in range(1, top + 1)))


@dataclass(frozen=True)
class Reverse(Matching):
    """The uniform map upside down: a control, since the order hardly matters (2502.04499)."""

    key: ClassVar[str] = "reverse"

    def layers(self, student: int, teacher: int) -> LayerMap:
        """Return the student's blocks with the uniform teacher blocks in reverse."""
        pairs = layermap.uniform(student, teacher).pairs
        teachers = [t for _, t in reversed(pairs)]
        return LayerMap(tuple((s, t) for (s, _), t in zip(pairs, teachers, strict=True)))


@dataclass(frozen=True)
class Pairs(Matching):
    """Pairs given one by one."""

    key: ClassVar[str] = "custom"
    any_depth: ClassVar[bool] = True
    pairs: tuple[tuple[int, int], ...]

    def layers(self, student: int, teacher: int) -> LayerMap:  # noqa: ARG002
        """Return them; whether they exist is checked with the two specs."""
        return LayerMap(self.pairs)


@dataclass(frozen=True)
class Stack(Matching):
    """All layers of the uniform map, embeddings included, as one tensor (B, N, L_S + 1, D)."""

    key: ClassVar[str] = "all_layers_stacked"
    stacked: ClassVar[bool] = True

    def layers(self, student: int, teacher: int) -> LayerMap:
        """Return the uniform map with the embedding layer."""
        return LayerMap(((0, 0), *layermap.uniform(student, teacher).pairs))

    def pair(
        self,
        layer_map: LayerMap,
        student: "Mapping[int, Tensor]",
        teacher: "Mapping[int, Tensor]",
        context: Context,  # noqa: ARG002
    ) -> Iterator[Pair]:
        """Yield the two stacks, as the transforms left them."""
        yield Pair(student[0], teacher[0], layer_map.pairs[-1][1])
