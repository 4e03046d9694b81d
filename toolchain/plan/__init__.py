"""Recipe to Plan: everything a run will do, resolved, and everything refused."""

from toolchain.plan.make import make_plan, probed
from toolchain.plan.types import (
    AssistantPlan,
    AugmentPlan,
    AwarePlan,
    CachePlan,
    Plan,
    StagePlan,
    TeacherPlan,
)

__all__ = [
    "AssistantPlan",
    "AugmentPlan",
    "AwarePlan",
    "CachePlan",
    "Plan",
    "StagePlan",
    "TeacherPlan",
    "make_plan",
    "probed",
]
