"""The lower or the upper part of the uniform map: different losses at different heights."""

from dataclasses import dataclass
from typing import ClassVar, Literal

from toolchain import layermap
from toolchain.distill.matching.static import Matching
from toolchain.layermap import LayerMap

__all__ = ["UniformPart"]


@dataclass(frozen=True)
class UniformPart(Matching):
    """Student layers 0..M ("lower") or M+1..L ("upper") with M = L // 2, paired uniformly.

    MGSKD (ACL 2022) relates tokens below and sequences above; layer 0 is the
    embedding output.
    """

    key: ClassVar[str] = "uniform_part"
    part: Literal["lower", "upper"]

    def layers(self, student: int, teacher: int) -> LayerMap:
        """Return that part of the uniform map."""
        pairs = ((0, 0), *layermap.uniform(student, teacher).pairs)
        middle = student // 2
        return LayerMap(tuple(p for p in pairs if (p[0] <= middle) == (self.part == "lower")))
