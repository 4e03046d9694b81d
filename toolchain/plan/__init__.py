"""Recipe to Plan: everything a run will do, resolved, and everything refused."""

from toolchain.plan.make import make_plan, probed
from toolchain.plan.types import Plan, StagePlan

__all__ = ["Plan", "StagePlan", "make_plan", "probed"]
