"""What a study was asked to do: a recipe, and how long, how often and along which axes to vary it.

The run folder keeps it as its recipe, so that the same command goes on and another is refused.
"""

from typing import Annotated, Literal

from pydantic import Field, field_validator

from toolchain.config import Config
from toolchain.recipe import Recipe

__all__ = ["AXES", "AxisName", "Compared", "Study", "StudySettings"]

AxisName = Literal["knowledge", "initialisation", "matching", "shape", "size"]

Compared = Literal[AxisName, "together"]
"""An axis, or what all axes together make of the base."""

AXES: tuple[AxisName, ...] = ("knowledge", "initialisation", "matching", "shape", "size")
"""All axes. Where time is short the last one is left out first."""


class StudySettings(Config):
    """`budget_s` is what the whole study may take; `seeds` is how often each variant is trained."""

    budget_s: float = Field(gt=0)
    seeds: Annotated[int, Field(gt=0, le=1000)] = 3
    axes: list[AxisName] = list(AXES)

    @field_validator("axes")
    @classmethod
    def _in_order(cls, value: list[AxisName]) -> list[AxisName]:
        if not value:
            raise ValueError("name at least one axis")
        return [axis for axis in AXES if axis in value]


class Study(Recipe):
    """The recipe that is varied, with every path resolved, and the settings of the study."""

    study: StudySettings
