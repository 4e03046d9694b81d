"""Outlook: whether a distillation fits some hardware, from configurations alone.

No weights, no data and no such hardware are needed: shapes come from config.json, what is held from
the method's terms.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from toolchain import hardware
from toolchain.distill.compose import Composition, compose
from toolchain.distill.records import Parts
from toolchain.distill.written import read_terms
from toolchain.errors import UsageError
from toolchain.models.checkpoint import described
from toolchain.plan.aware import INT8
from toolchain.plan.precision import AUTO
from toolchain.plan.student import default_method, student_spec
from toolchain.plan.task import language_task
from toolchain.plan.training import bound_to_all
from toolchain.recipe import Placement, Recipe, StageTraining
from toolchain.scale.budget import Job, Placed, budget_of
from toolchain.scale.hardware import Hardware, parse_hardware
from toolchain.scale.placing import Tried, barred, cheapest, tried
from toolchain.spec import ModelSpec, Task

__all__ = ["Outlook", "make_outlook"]

_TOKENS = 512


@dataclass(frozen=True, kw_only=True)
class Outlook:
    """Every placement that was asked about, with what it needs, for the stage that needs most.

    `fitting` is the cheapest of them that fits, `way_out` the cheapest of all when none does,
    `fitting_batch` the largest batch, by halves, that fits somehow when that does not help.
    """

    job: Job
    method: str
    stage: str
    hardware: Hardware
    placements: tuple[Tried, ...]
    fitting: Tried | None
    way_out: Tried | None
    fitting_batch: int | None
    reasons: tuple[str, ...]

    @property
    def shown(self) -> Tried:
        """The placement worth its shares: the one that fits, else the first with a budget."""
        with_budget = [one for one in self.placements if one.budget]
        return self.fitting or (with_budget or list(self.placements))[0]

    def as_json(self) -> dict[str, Any]:
        """Return the outlook as `plan --json` prints it."""
        job = self.job
        return {
            "teachers": [_model(spec) for spec in job.teachers],
            "student": _model(job.student),
            "method": self.method,
            "stage": self.stage,
            "batch": job.batch,
            "tokens": job.tokens,
            "precision": "bf16" if job.bf16 else "fp32",
            "hardware": {
                "name": str(self.hardware),
                "ranks": self.hardware.ranks,
                "rank_bytes": self.hardware.rank_bytes,
                "gpu": self.hardware.gpu,
                "host_bytes": self.hardware.host_bytes,
                "disk_bytes": self.hardware.disk_bytes,
            },
            "fidelity": "estimated",
            "placements": [_placement(one) for one in self.placements],
            "fitting": _names(self.fitting),
            "way_out": _names(self.way_out),
            "fitting_batch": self.fitting_batch,
            "reasons": list(self.reasons),
        }


def _model(spec: ModelSpec) -> dict[str, Any]:
    return {"shape": str(spec), "family": spec.family, "parameters": spec.params()}


def _names(one: Tried | None) -> dict[str, str] | None:
    return {"teacher": one.placed.teacher, "student": one.placed.student} if one else None


def _placement(one: Tried) -> dict[str, Any]:
    return {
        "teacher": one.placed.teacher,
        "student": one.placed.student,
        "fits": one.refused is None,
        "refused": one.refused,
        "budget": one.budget.as_json() if one.budget else None,
    }


def make_outlook(recipe: Recipe) -> Outlook:
    """Return what a recipe would need. Raises UsageError; the recipe's data are not read."""
    reasons: list[str] = []
    machine = parse_hardware(recipe.placement.hardware)
    teachers = tuple(_spec(source, recipe) for source in (recipe.teacher, *recipe.teachers))
    composition = _composition(recipe)
    student = _student(recipe, teachers[0], composition, reasons)
    if composition is None:
        composition = default_method(student, teachers[0], reasons)
    if len(teachers) < composition.needs_teachers:
        raise UsageError(
            f"method {composition.text!r} needs {composition.needs_teachers} teachers, "
            f"the recipe names {len(teachers)}",
            "name the others: teachers=[DIR, ...]",
        )
    tokens = _tokens(recipe, student, teachers, reasons)
    jobs = _jobs(recipe, composition, student, teachers, tokens, _bf16(recipe, machine))
    _say_aware(recipe, jobs, student, machine, reasons)
    stage, job = max(
        jobs.items(), key=lambda named: budget_of(named[1], Placed(), machine).rank_bytes
    )
    bars = barred([Parts(operators=composition.operators, surgery=composition.surgery)])
    others = [own for own in jobs.values() if own is not job]

    def cut_to(batch: int, asked: Placement) -> tuple[Tried, ...]:
        first, *rest = (replace(own, batch=min(own.batch, batch)) for own in (job, *others))
        return tried(first, asked, machine, bars=bars, beside=rest)

    most = max(own.batch for own in jobs.values())
    found = cut_to(most, recipe.placement)
    fitting = cheapest(found)
    open_ = recipe.placement.model_copy(update={"teacher": "auto", "student": "auto"})
    way_out = None if fitting else cheapest(cut_to(most, open_))
    halves = (job.batch >> n for n in range(1, job.batch.bit_length()))
    smaller = (b for b in halves if cheapest(cut_to(b, open_)))
    return Outlook(
        job=job,
        method=composition.text,
        stage=stage,
        hardware=machine,
        placements=found,
        fitting=fitting,
        way_out=way_out,
        fitting_batch=None if fitting or way_out else next(smaller, None),
        reasons=tuple(reasons),
    )


def _say_aware(
    recipe: Recipe,
    jobs: Mapping[str, Job],
    student: ModelSpec,
    machine: Hardware,
    reasons: list[str],
) -> None:
    """Say what training for int8 would take, where it may follow and nothing rules it out yet."""
    if recipe.quantize.aware == "never" or student.causal:
        return
    if "pred" in jobs and {INT8, AUTO} & set(recipe.precisions):
        size = budget_of(replace(jobs["pred"], bf16=False), Placed(), machine).rank_bytes
        when = "" if recipe.quantize.aware == "always" else ", should int8 miss a gate,"
        reasons.append(
            f"the finished student{when} is trained on with the rounding of int8, whole and in "
            f"fp32: about {size / 1e9:.1f} GB (quantize.aware)"
        )


def _spec(source: str, recipe: Recipe) -> ModelSpec:
    """Return the shape a configuration describes, with a head for the task."""
    family, config = described(source)
    try:
        bare = family.spec(config)
    except UsageError as error:
        raise UsageError(f"teacher {source}: {error.message}", error.hint) from None
    task: Task = "causal_lm" if bare.causal else "classify"
    if recipe.data.task != "auto":
        task = recipe.data.task
    family.head(task)
    names = config.get("id2label")
    labels = len(names) if isinstance(names, dict) and names else 2
    count = labels if task in ("classify", "multi_label", "tag") else 1 if task == "regress" else 0
    spec = replace(bare, task=task, num_labels=count)
    problem = spec.problem()
    if problem:
        raise UsageError(f"teacher {source}: config.json: {problem}")
    return spec


def _composition(recipe: Recipe) -> Composition | None:
    written = read_terms(recipe.terms)
    if recipe.method == "auto" and not written:
        return None
    return compose("" if recipe.method == "auto" else recipe.method, recipe.method_options, written)


def _student(
    recipe: Recipe, teacher: ModelSpec, composition: Composition | None, reasons: list[str]
) -> ModelSpec:
    if recipe.student.path is not None:
        return _spec(recipe.student.path, recipe)
    return student_spec(recipe, None, teacher, composition, reasons)


def _tokens(
    recipe: Recipe, student: ModelSpec, teachers: Sequence[ModelSpec], reasons: list[str]
) -> int:
    limit = min(spec.max_tokens for spec in (student, *teachers))
    asked = recipe.data.max_tokens
    if asked is None:
        reasons.append(f"no --tokens given: rows of {min(limit, _TOKENS)}")
        return min(limit, _TOKENS)
    if asked > limit:
        raise UsageError(f"data.max_tokens is {asked}, the models have {limit} positions")
    return asked


def _bf16(recipe: Recipe, machine: Hardware) -> bool:
    if recipe.train.precision != "auto":
        return recipe.train.precision == "bf16"
    return machine.gpu or hardware.bf16_reason() is not None


def _jobs(
    recipe: Recipe,
    composition: Composition,
    student: ModelSpec,
    teachers: tuple[ModelSpec, ...],
    tokens: int,
    bf16: bool,
) -> dict[str, Job]:
    """Return what each stage holds; one on raw text is left out unless the recipe names some."""
    wanted = dict(composition.stages)
    if len(wanted) > 1 and not recipe.data.raw:
        wanted.pop("general", None)
    jobs: dict[str, Job] = {}
    for name, terms in wanted.items():
        own, guides = student, teachers
        if name == "general" and any(t.extract.kind in ("logits", "labels") for t in terms):
            language = language_task(student)
            own = replace(student, task=language, num_labels=0)
            guides = tuple(replace(t, task=language, num_labels=0) for t in teachers)
        stage = recipe.stages.get(name, StageTraining())
        jobs[name] = Job(
            student=own,
            teachers=guides,
            terms=bound_to_all(terms, own, guides),
            batch=stage.batch_size or recipe.train.batch_size,
            tokens=tokens,
            bf16=bf16,
        )
    return jobs
