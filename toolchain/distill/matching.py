"""Which teacher layer a student layer reads: the matching axis.

A matching says beforehand which layers it needs (`layers`) and pairs the captured tensors in
every step (`pair`). The static ones here pair by a fixed map; learned ones weigh several.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from toolchain import layermap
from toolchain.layermap import LayerMap

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["First", "Last", "Matching", "Pairs", "Skip", "Static", "Uniform", "Whole"]


class Matching(Protocol):
    """Decides which layers are compared."""

    def layers(self, student: int, teacher: int) -> LayerMap:
        """Return the layers needed of models with these depths."""

    def pair(
        self, layer_map: LayerMap, student: "Mapping[int, Tensor]", teacher: "Mapping[int, Tensor]"
    ) -> "Iterator[tuple[Tensor, Tensor]]":
        """Yield (student, teacher) tensors to compare; their values are summed."""


class Static:
    """Pairs exactly as the layer map says."""

    def pair(
        self, layer_map: LayerMap, student: "Mapping[int, Tensor]", teacher: "Mapping[int, Tensor]"
    ) -> "Iterator[tuple[Tensor, Tensor]]":
        """Yield the tensors of each pair of the map."""
        for s, t in layer_map:
            yield student[s], teacher[t]


@dataclass(frozen=True)
class Whole(Static):
    """For knowledge that exists once per model: logits, labels, embeddings."""

    def layers(self, student: int, teacher: int) -> LayerMap:  # noqa: ARG002
        """Return one pair that stands for the models themselves."""
        return LayerMap(((0, 0),))


@dataclass(frozen=True)
class Uniform(Static):
    """g(l) = round(l L_T / L_S), the final block included (TinyBERT)."""

    def layers(self, student: int, teacher: int) -> LayerMap:
        """Return the uniform map."""
        return layermap.uniform(student, teacher)


@dataclass(frozen=True)
class Skip(Static):
    """Uniform without the final block, which the logits supervise (PKD-Skip)."""

    def layers(self, student: int, teacher: int) -> LayerMap:
        """Return the uniform map without its last pair."""
        return layermap.skip(student, teacher)


@dataclass(frozen=True)
class First(Static):
    """Block l with block l."""

    def layers(self, student: int, teacher: int) -> LayerMap:
        """Return the identity on the student's blocks."""
        return layermap.first(student, teacher)


@dataclass(frozen=True)
class Last(Static):
    """The student's last block with one teacher block; negative counts from the teacher's end."""

    teacher_layer: int = -1

    def layers(self, student: int, teacher: int) -> LayerMap:
        """Return the one pair."""
        layer = self.teacher_layer
        return LayerMap(((student, teacher + 1 + layer if layer < 0 else layer),))


@dataclass(frozen=True)
class Pairs(Static):
    """Pairs given one by one."""

    pairs: tuple[tuple[int, int], ...]

    def layers(self, student: int, teacher: int) -> LayerMap:  # noqa: ARG002
        """Return them; whether they exist is checked with the two specs."""
        return LayerMap(self.pairs)
