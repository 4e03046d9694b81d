"""Teachers that are read from a cache: what can be, what it must hold, what becomes of the terms.

What a teacher knows of a row can be kept only where the row is known beforehand and the teacher
answers it the same each time; everything else is refused here, before weights are loaded.
"""

import dataclasses
from collections.abc import Iterable, Sequence
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path

from toolchain import __version__
from toolchain.distill.objectives import KL, TopKKL
from toolchain.distill.objectives.sparse import SampledKL, StoredKL
from toolchain.distill.term import BoundTerm
from toolchain.errors import UsageError
from toolchain.models.tokenizers import tokenizer_digest
from toolchain.plan.types import CachePlan, Plan, StagePlan
from toolchain.scale.knowledge import TOP_K, Keep, Wanted, wanted_of
from toolchain.scale.ledger import CacheFolder, Identity, teacher_folder
from toolchain.spec import LANGUAGE, ModelSpec

__all__ = ["check_cacheable", "identity_of", "read_from", "streaming", "wanted_by", "with_caches"]

_WHOLE = "use placement.teacher=whole"


def with_caches(plan: Plan) -> Plan:
    """Return the plan with its teachers read from where the recipe says they lie.

    Raises UsageError for methods that need a teacher that runs, and for a cache of anything else.
    """
    placement = plan.recipe.placement
    if placement.teacher != "cached":
        if placement.cache is not None:
            raise UsageError(
                f"placement.cache is set, but placement.teacher is {placement.teacher}",
                "set placement.teacher=cached, or drop placement.cache",
            )
        return plan
    if placement.cache is None:
        raise UsageError(
            "placement.teacher is cached, but placement.cache names no folder",
            "make one with toolchain cache and name it: placement.cache=FOLDER",
        )
    check_cacheable(plan, "placement.teacher is cached")
    caches, keeps, reasons = [], [], list(plan.reasons)
    for number, wanted in enumerate(wanted_by(plan), 1):
        folder = CacheFolder(teacher_folder(Path(placement.cache), number))
        held = folder.identity()
        folder.require(identity_of(plan, number, held.keeps))
        _check_keeps(plan, folder, held.keeps, wanted)
        shards = folder.shards()
        reasons.append(
            f"teacher {number} is read from {folder.root}: {sum(s.rows for s in shards):,} rows, "
            f"{sum(s.bytes for s in shards):,} bytes"
        )
        caches.append(CachePlan(folder=folder.root, digest=held.digest))
        keeps.append(held.keeps)
    stages = tuple(
        replace(stage, terms=tuple(_stored(bound, keeps, reasons) for bound in stage.terms))
        for stage in plan.stages
    )
    return replace(plan, stages=stages, caches=tuple(caches), reasons=tuple(reasons))


def streaming(plan: Plan) -> Plan:
    """Return the plan with its teachers streamed, where its placement asks for it or has to.

    Raises UsageError for methods that need a teacher that runs.
    """
    asked = plan.recipe.placement.teacher
    chosen = plan.budget.placed.teacher if plan.budget else "whole"
    if asked == "streamed":
        check_cacheable(plan, "placement.teacher is streamed")
    elif asked == "auto" and chosen in ("cached", "streamed"):
        check_cacheable(plan, "the teacher does not fit beside the student and would be streamed")
    else:
        return plan if asked == "cached" else _told_unread(plan)
    said = (
        "teachers are streamed: block by block from their files, over all rows at once; what the "
        "terms read is cached in the run's folder, and the student learns from there"
    )
    return replace(plan, streams=True, reasons=(*plan.reasons, said))


def _told_unread(plan: Plan) -> Plan:
    """Return the plan, saying which settings of a cache nothing reads here."""
    placement = plan.recipe.placement
    names = ("top_k", "logits", "states")
    idle = [f"placement.{name}" for name in names if getattr(placement, name) is not None]
    if not idle:
        return plan
    said = f"{', '.join(idle)}: of a cached or streamed teacher, not read beside one that runs"
    return replace(plan, reasons=(*plan.reasons, said))


def read_from(plan: Plan, folder: Path) -> Plan:
    """Return a streaming plan with its teachers read from the cache they were streamed to."""
    placement = plan.recipe.placement.model_copy(update={"teacher": "cached", "cache": str(folder)})
    recipe = plan.recipe.model_copy(update={"placement": placement})
    return replace(with_caches(replace(plan, recipe=recipe)), recipe=plan.recipe)


def wanted_by(plan: Plan) -> tuple[Wanted, ...]:
    """Return what the stages of the student read of each teacher."""
    found = []
    for number, spec in enumerate(plan.teacher_specs):
        wanted = Wanted(frozenset())
        for stage in plan.stages:
            wanted |= wanted_of(
                stage.terms, stage.parts, number, spec.task, reads=stage.needs_teacher
            )
        found.append(wanted)
    return tuple(found)


def identity_of(plan: Plan, number: int, keeps: tuple[Keep, ...]) -> Identity:
    """Return what a cache of a teacher, from 1, is of."""
    checkpoint, spec = plan.checkpoints[number - 1], plan.teacher_specs[number - 1]
    libraries = {name: version(name) for name in ("torch", "transformers")}
    return Identity(
        teacher=checkpoint.digest,
        source=checkpoint.source,
        tokenizer=tokenizer_digest(checkpoint.root),
        task=spec.task,
        max_tokens=plan.limit(spec.tokenizer),
        keeps=keeps,
        computed="bf16" if plan.bf16 else "fp32",
        versions={"toolchain": __version__, **libraries},
    )


def check_cacheable(plan: Plan, what: str) -> None:
    """Raise UsageError for what reads more of a teacher than a cache can hold.

    `what` begins the sentence.
    """
    bare = [plan.finetune, *(other.finetune for other in plan.others)]
    for stage, checkpoint in zip(bare, plan.checkpoints, strict=True):
        if stage:
            raise UsageError(
                f"{what}, but {checkpoint.source} is a bare encoder that has still to be "
                "fine-tuned",
                "give it its head first with toolchain finetune",
            )
    if plan.assistants:
        raise UsageError(
            f"{what}, but behind an assistant the teacher is a model that the run itself trains",
            f"{_WHOLE}, or distil each assistant by itself",
        )
    if not any(stage.needs_teacher for stage in plan.stages):
        _check_operators(plan.stages, what)
        raise UsageError(
            f"{what}, but method {plan.recipe.method!r} reads nothing of a teacher while the "
            "student trains",
            "drop it",
        )
    _check_operators(plan.stages, what)
    for stage in plan.stages:
        if stage.needs_teacher:
            _check_stage(plan, stage, what)


def _check_operators(stages: Iterable[StagePlan], what: str) -> None:
    for stage in stages:
        for operator in stage.parts.operators:
            if operator.reruns:
                raise UsageError(
                    f"{what}, but {operator.key} (stage {stage.name}) needs one that runs: "
                    f"{operator.reruns}",
                    _WHOLE,
                )


def _check_stage(plan: Plan, stage: StagePlan, what: str) -> None:
    surgery, aggregation = stage.parts.surgery, stage.parts.aggregation
    if surgery and surgery.takes_modules:
        raise UsageError(
            f"{what}, but {surgery.key} (stage {stage.name}) trains with the teacher's own modules "
            "inside the student",
            _WHOLE,
        )
    if stage.task == "mask_lm":
        raise UsageError(
            f"{what}, but stage {stage.name} hides other tokens in every step, so the teacher "
            "never reads a row twice alike",
            f"{_WHOLE}, or a method whose stage reads no predictions of masked tokens, such as "
            "minilm_v2",
        )
    if stage.task == "qa":
        raise UsageError(
            f"{what}, but stage {stage.name} compares where answers begin and end: figures for "
            "every token, of which a cache has one row per text",
            _WHOLE,
        )
    if stage.task != plan.student.task:
        raise UsageError(
            f"{what}, but stage {stage.name} reads another head of the teacher ({stage.task}) than "
            "the task's",
            f"{_WHOLE}, or drop data.raw",
        )
    if stage.task in LANGUAGE and aggregation and aggregation.reads_teachers:
        raise UsageError(
            f"{what}, but {aggregation.key} weighs teachers by their whole distributions over "
            "tokens, of which a cache keeps the largest",
            f"{_WHOLE}, or a method with equal weights",
        )
    placement = plan.recipe.placement
    for bound in stage.terms:
        if _reads_some(bound, placement.top_k or TOP_K):
            _check_term(bound, what, sampled=placement.logits == "sampled")


def _reads_some(bound: BoundTerm, top_k: int) -> bool:
    """Whether a term reads logits of which a cache keeps some alone, the largest or drawn ones."""
    if bound.term.extract.is_gold or bound.term.extract.kind != "logits":
        return False
    teacher: ModelSpec = bound.specs[1]
    return teacher.task in LANGUAGE and teacher.vocab > top_k


def _check_term(bound: BoundTerm, what: str, *, sampled: bool) -> None:
    changed = [t for t in bound.transforms if t.side != "student"]
    vocab = bound.specs[1].vocab
    if changed or not isinstance(bound.objective, KL | TopKKL):
        does = repr(changed[0]) if changed else bound.objective.key
        raise UsageError(
            f"{what}, but term {bound.name!r} ({does}) needs the teacher's whole distribution over "
            f"{vocab:,} tokens, of which a cache keeps the largest and one rest, or drawn ones",
            f"{_WHOLE}, or kd or topk_kd, whose KL over these can be computed, or keep all "
            f"outcomes: placement.top_k={vocab}",
        )
    if sampled and isinstance(bound.objective, TopKKL):
        raise _needs_largest(bound)


def _needs_largest(bound: BoundTerm) -> UsageError:
    return UsageError(
        f"term {bound.name!r} compares the largest outcomes, which are not known of a cache of "
        "drawn ones",
        "use kd, or a cache of the largest: placement.logits=largest",
    )


def _check_keeps(plan: Plan, folder: CacheFolder, keeps: Sequence[Keep], wanted: Wanted) -> None:
    """Raise UsageError unless a cache keeps all that is wanted, as exactly as it is wanted."""
    again = "make another with toolchain cache and this recipe, in another folder"
    lacking = wanted.lacking(keeps)
    if lacking:
        raise UsageError(
            f"cache {folder.root}: method {plan.recipe.method!r} reads {', '.join(lacking)} of the "
            f"teacher, it holds {', '.join(keep.name for keep in keeps)}",
            again,
        )
    placement = plan.recipe.placement
    for keep in keeps:
        if keep.kind in ("largest", "sampled"):
            if placement.logits not in (None, keep.kind):
                raise UsageError(
                    f"cache {folder.root}: it keeps {keep.kind} outcomes, placement.logits is "
                    f"{placement.logits}",
                    again,
                )
            if placement.top_k not in (None, keep.width):
                raise UsageError(
                    f"cache {folder.root}: it keeps {keep.width} outcomes, placement.top_k is "
                    f"{placement.top_k}",
                    again,
                )
            other = sorted(wanted.taus - set(keep.taus))
            if other:
                held = "the mass of the rest" if keep.kind == "largest" else "outcomes drawn"
                raise UsageError(
                    f"cache {folder.root}: it keeps {held} at tau "
                    f"{', '.join(f'{tau:g}' for tau in keep.taus)}, a term compares at "
                    f"{other[0]:g}",
                    f"{again}; with placement.top_k={keep.outcomes} it keeps all outcomes, which "
                    "serve every tau",
                )
        elif keep.unit in ("token", "row") and placement.states not in (None, keep.precision):
            raise UsageError(
                f"cache {folder.root}: it keeps {keep.name} in {keep.precision}, placement.states "
                f"is {placement.states}",
                again,
            )


def _stored(bound: BoundTerm, keeps: Sequence[Sequence[Keep]], reasons: list[str]) -> BoundTerm:
    """Return the term as it reads what is stored of logits."""
    some = next((k for k in keeps[bound.teacher] if k.kind in ("largest", "sampled")), None)
    if some is None or not _reads_some(bound, some.width):
        return bound
    objective = bound.objective
    assert isinstance(objective, KL | TopKKL), "refused before"
    stored: SampledKL | StoredKL
    if some.kind == "sampled":
        if isinstance(objective, TopKKL):
            raise _needs_largest(bound)
        stored = SampledKL(draws=some.width, tau=objective.tau, temperatures=some.taus)
        said = f"estimated, without bias, from {some.width} outcomes drawn of the teacher's"
    else:
        k = objective.k if isinstance(objective, TopKKL) else some.width
        if k > some.width:
            raise UsageError(
                f"term {bound.name!r} compares {k} outcomes, the cache keeps {some.width}",
                f"make it with placement.top_k={k}",
            )
        stored = StoredKL(k=k, tau=objective.tau, stored=some.width, temperatures=some.taus)
        said = f"over the {k} largest outcomes and one of all others"
    sentence = f"term {bound.name}: the KL is {said}, which is what a cache keeps"
    if sentence not in reasons:
        reasons.append(sentence)
    return dataclasses.replace(bound, objective=stored)
