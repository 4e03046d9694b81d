"""What a plan is: everything a run will do, resolved, with the reason for each own choice."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from toolchain.artifact import digest_of
from toolchain.data.sources import TaskData
from toolchain.data.unlabelled import Unlabelled
from toolchain.distill.records import PLAIN, Parts
from toolchain.distill.term import BoundTerm
from toolchain.estimate import Estimate
from toolchain.layermap import LayerMap
from toolchain.models.checkpoint import Checkpoint
from toolchain.models.initialise import Init
from toolchain.recipe import Augment, Placement, Recipe
from toolchain.scale.budget import Budget
from toolchain.spec import ModelSpec, Task
from toolchain.target import Target

__all__ = [
    "AssistantPlan",
    "AugmentPlan",
    "AwarePlan",
    "CachePlan",
    "Plan",
    "StagePlan",
    "TeacherPlan",
]


@dataclass(frozen=True, kw_only=True)
class StagePlan:
    """One stage of training with everything fixed; `raw` stages read unlabelled text.

    `extended` ones read the task's rows and further ones: copies, texts that the teacher labels.

    `task` is what the models' heads are for in this stage.
    """

    name: str
    terms: tuple[BoundTerm, ...]
    steps: int
    batch_size: int
    lr: float
    warmup: float
    raw: bool = False
    keep_best: bool = True
    extended: bool = False
    parts: Parts = PLAIN
    task: Task = "classify"

    @property
    def needs_teacher(self) -> bool:
        """Whether any term reads a teacher, or the surgery does."""
        surgery = self.parts.surgery
        operated = surgery is not None and surgery.reads_teachers
        return operated or any(b.requests("teacher") for b in self.terms)

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
            "task": self.task,
            **({"extended": True} if self.extended else {}),
            **self.parts.as_json(),
        }


@dataclass(frozen=True, kw_only=True)
class AugmentPlan:
    """How copies of the training rows are made, and which model is asked for neighbours."""

    settings: Augment
    checkpoint: Checkpoint

    def as_json(self) -> dict[str, Any]:
        """Return what decides the copies, for digests and plans."""
        settings = self.settings.model_dump(exclude={"model"})
        return {**settings, "model": self.checkpoint.digest}


@dataclass(frozen=True, kw_only=True)
class TeacherPlan:
    """A teacher beside the first one; `finetune` gives a bare encoder its head."""

    checkpoint: Checkpoint
    spec: ModelSpec
    finetune: StagePlan | None

    def as_json(self) -> dict[str, Any]:
        """Return the teacher as plans print it."""
        return {
            "source": self.checkpoint.source,
            "shape": str(self.spec),
            "parameters": self.spec.params(),
            "has_head": self.checkpoint.has_head,
            "digest": self.checkpoint.digest,
            "finetune": self.finetune.as_json() if self.finetune else None,
        }


@dataclass(frozen=True, kw_only=True)
class AssistantPlan:
    """A model between teacher and student: it learns as a student, then it teaches.

    `source` says whose layers it starts from: 0 the teacher's, n those of assistant n before it.
    """

    spec: ModelSpec
    init: Init
    copied: LayerMap
    source: int
    stages: tuple[StagePlan, ...]

    def as_json(self) -> dict[str, Any]:
        """Return the assistant as plans print it."""
        return {
            "shape": str(self.spec),
            "parameters": self.spec.params(),
            "init": self.init,
            "layer_map": str(self.copied),
            "source": self.source,
            "stages": [stage.as_json() for stage in self.stages],
        }


@dataclass(frozen=True, kw_only=True)
class CachePlan:
    """Where the knowledge of a teacher lies, and the digest of what it is of."""

    folder: Path
    digest: str


@dataclass(frozen=True, kw_only=True)
class AwarePlan:
    """How a finished student is trained on for its int8 file.

    Unless `always`, that happens only where the file misses a gate. `seconds` are None until the
    machine was probed.
    """

    always: bool
    steps: int
    lr: float
    seconds: float | None = None

    def as_json(self) -> dict[str, Any]:
        """Return it as plans print it."""
        return {
            "when": "always" if self.always else "int8 misses a gate",
            "steps": self.steps,
            "lr": self.lr,
            "seconds": self.seconds,
        }


@dataclass(frozen=True, kw_only=True)
class Plan:
    """A whole run, resolved. `reasons` are sentences a person should read before it starts.

    `others` are teachers beside the first; with `together` all share one head while they are
    fine-tuned. `all_guides` says who teaches a model behind assistants: every model before it, or
    the last. `source` is whose layers the student starts from, as in `AssistantPlan`. `caches` are
    where the teachers are read from, in their order; empty where they run, or where the run
    `streams` them into caches of its own. `budget` is the memory
    of the stage that needs most, placed as the run will be. `aware` is what may follow it.
    """

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
    others: tuple[TeacherPlan, ...] = ()
    together: bool = False
    assistants: tuple[AssistantPlan, ...] = ()
    all_guides: bool = False
    source: int = 0
    augment: AugmentPlan | None = None
    unlabelled: Unlabelled | None = None
    caches: tuple[CachePlan, ...] = ()
    streams: bool = False
    budget: Budget | None = None
    aware: AwarePlan | None = None

    @property
    def placement(self) -> Placement:
        """Where models lie while students train: as asked, or the cheapest that fits."""
        asked = self.recipe.placement
        if self.budget is None:
            return asked
        teacher, student = self.budget.placed.teacher, self.budget.placed.student
        chosen = {
            "teacher": teacher if asked.teacher == "auto" else asked.teacher,
            "student": student if asked.student == "auto" else asked.student,
        }
        return asked.model_copy(update=chosen)

    @property
    def teacher_specs(self) -> tuple[ModelSpec, ...]:
        """Shapes of all teachers, the first one's first."""
        return (self.teacher_spec, *(other.spec for other in self.others))

    @property
    def checkpoints(self) -> tuple[Checkpoint, ...]:
        """Folders of all teachers, the first one's first."""
        return (self.teacher, *(other.checkpoint for other in self.others))

    def limit(self, tokenizer: str) -> int:
        """Return the most tokens of a row that models with this tokenizer read."""
        models = (self.student, *self.teacher_specs, *(a.spec for a in self.assistants))
        positions = min(s.max_tokens for s in models if s.tokenizer == tokenizer)
        return min(self.recipe.data.max_tokens or positions, positions)

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
            "teachers": [other.as_json() for other in self.others],
            "together": self.together,
            "assistants": [assistant.as_json() for assistant in self.assistants],
            "student": {"shape": str(self.student), "parameters": self.student.params()},
            "augment": self.augment.as_json() if self.augment else None,
            "unlabelled": len(self.unlabelled) if self.unlabelled else 0,
            "caches": [str(cache.folder) for cache in self.caches],
            "init": self.init,
            "layer_map": str(self.copied),
            "method": self.recipe.method,
            "finetune": self.finetune.as_json() if self.finetune else None,
            "stages": [stage.as_json() for stage in self.stages],
            "baseline": self.baseline.as_json() if self.baseline else None,
            "aware": self.aware.as_json() if self.aware else None,
            "targets": [target.name for target in self.targets],
            "precision": "bf16" if self.bf16 else "fp32",
            "threads": {"training": self.train_threads, "benchmark": self.bench_threads},
            "tokens": {"limit": self.max_tokens, "mean": round(self.mean_tokens, 1)},
            "estimate": {
                "memory_bytes": self.estimate.memory_bytes,
                "disk_bytes": self.estimate.disk_bytes,
                "seconds": self.estimate.seconds,
            },
            "memory": self.budget.as_json() if self.budget else None,
            "reasons": list(self.reasons),
        }
