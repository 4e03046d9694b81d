"""Every layer of the teacher by itself: for heads and filters that are grounded in the labels."""

from dataclasses import dataclass
from typing import ClassVar

from toolchain.distill.matching.static import Matching
from toolchain.layermap import LayerMap

__all__ = ["EveryTeacherLayer"]


@dataclass(frozen=True)
class EveryTeacherLayer(Matching):
    """Blocks 1..L_T of the teacher, each once; the student's last block stands beside them."""

    key: ClassVar[str] = "every_teacher_layer"
    any_depth: ClassVar[bool] = True

    def layers(self, student: int, teacher: int) -> LayerMap:
        """Return one pair per teacher block."""
        return LayerMap(tuple((student, layer) for layer in range(1, teacher + 1)))
