"""Which teacher block each student block starts from. Decided without reading a weight."""

from typing import Literal

from toolchain import layermap
from toolchain.layermap import LayerMap

__all__ = ["Init", "copied_layers"]

Init = Literal["teacher_uniform", "teacher_first_k", "teacher_copy", "random", "given"]


def copied_layers(init: Init, student: int, teacher: int) -> LayerMap:
    """Return which teacher block each student block starts from; empty for a random start."""
    match init:
        case "teacher_uniform":
            return layermap.uniform(student, teacher)
        case "teacher_first_k" | "teacher_copy":
            return layermap.first(student, teacher)
        case "random" | "given":
            return LayerMap(())
