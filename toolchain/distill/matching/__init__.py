"""Which teacher layer a student layer reads: one file per way of matching."""

from toolchain.distill.matching.attention import AttnWeighted
from toolchain.distill.matching.emd import Emd
from toolchain.distill.matching.every import EveryTeacherLayer
from toolchain.distill.matching.nearest import DynamicArgmin
from toolchain.distill.matching.part import UniformPart
from toolchain.distill.matching.random_layers import Random
from toolchain.distill.matching.static import (
    First,
    Last,
    LastK,
    Matching,
    Pair,
    Pairs,
    Reverse,
    Same,
    Skip,
    Stack,
    Uniform,
    Whole,
)

__all__ = [
    "AttnWeighted",
    "DynamicArgmin",
    "Emd",
    "EveryTeacherLayer",
    "First",
    "Last",
    "LastK",
    "Matching",
    "Pair",
    "Pairs",
    "Random",
    "Reverse",
    "Same",
    "Skip",
    "Stack",
    "Uniform",
    "UniformPart",
    "Whole",
]
