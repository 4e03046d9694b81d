"""The stages of a distillation, in the order they run."""

from typing import Literal

__all__ = ["STAGES", "Stage"]

Stage = Literal["general", "inter", "pred"]
"""On raw text before fine-tuning; on the task's texts; on its predictions."""

STAGES: tuple[Stage, ...] = ("general", "inter", "pred")
