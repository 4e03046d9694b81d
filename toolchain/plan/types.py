"""What a plan is: everything a run will do, resolved, with the reason for each own choice."""

from dataclasses import dataclass
from typing import Any

from toolchain.artifact import digest_of
from toolchain.data.sources import TaskData
from toolchain.distill.term import BoundTerm
from toolchain.estimate import Estimate
from toolchain.layermap import LayerMap
from toolchain.models.checkpoint import Checkpoint
from toolchain.models.initialise import Init
from toolchain.recipe import Recipe
from toolchain.spec import ModelSpec
from toolchain.target import Target

__all__ = ["Plan", "StagePlan"]


@dataclass(frozen=True, kw_only=True)
class StagePlan:
    """One stage of training with everything fixed; `raw` stages read unlabelled text."""

    name: str
    terms: tuple[BoundTerm, ...]
    steps: int
    batch_size: int
    lr: float
    warmup: float
    raw: bool = False
    keep_best: bool = True

    @property
    def needs_teacher(self) -> bool:
        """Whether any term reads the teacher."""
        return any(bound.requests("teacher") for bound in self.terms)

    def as_json(self) -> dict[str, Any]:
        """Return what decides the outcome, for digests and reports."""
        return {
            "name": self.name,
            "terms": [str(bound) for bound in self.terms],
            "steps": self.steps,
            "batch_size": self.batch_size,
            "lr": self.lr,
            "warmup": self.warmup,
            "raw": self.raw,
        }


@dataclass(frozen=True, kw_only=True)
class Plan:
    """A whole run, resolved. `reasons` are sentences a person should read before it starts."""

    recipe: Recipe
    teacher: Checkpoint
    start: Checkpoint | None
    task: TaskData
    raw: tuple[str, ...]
    raw_digest: str
    teacher_spec: ModelSpec
    student: ModelSpec
    init: Init
    copied: LayerMap
    finetune: StagePlan | None
    stages: tuple[StagePlan, ...]
    baseline: StagePlan | None
    targets: tuple[Target, ...]
    bf16: bool
    train_threads: int
    bench_threads: int
    max_tokens: int
    mean_tokens: float
    estimate: Estimate
    reasons: tuple[str, ...]

    @property
    def recipe_digest(self) -> str:
        """Digest of the resolved recipe."""
        return digest_of(self.recipe.model_dump(mode="json"))

    def as_json(self) -> dict[str, Any]:
        """Return the plan as `--dry-run --json` prints it and the report shows it."""
        return {
            "teacher": {
                "source": self.teacher.source,
                "shape": str(self.teacher_spec),
                "parameters": self.teacher_spec.params(),
                "has_head": self.teacher.has_head,
                "digest": self.teacher.digest,
            },
            "student": {"shape": str(self.student), "parameters": self.student.params()},
            "init": self.init,
            "layer_map": str(self.copied),
            "method": self.recipe.method,
            "finetune": self.finetune.as_json() if self.finetune else None,
            "stages": [stage.as_json() for stage in self.stages],
            "baseline": self.baseline.as_json() if self.baseline else None,
            "targets": [target.name for target in self.targets],
            "precision": "bf16" if self.bf16 else "fp32",
            "threads": {"training": self.train_threads, "benchmark": self.bench_threads},
            "tokens": {"limit": self.max_tokens, "mean": round(self.mean_tokens, 1)},
            "estimate": {
                "memory_bytes": self.estimate.memory_bytes,
                "disk_bytes": self.estimate.disk_bytes,
                "seconds": self.estimate.seconds,
            },
            "reasons": list(self.reasons),
        }
