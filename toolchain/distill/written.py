"""Terms written out in a recipe: any knowledge, matching, transform, objective and schedule.

    terms:
      - {knowledge: hidden, match: uniform, transform: [project], objective: mse, weight: 2}
      - {knowledge: logits, objective: {kl: {tau: 4}}}

Every part is named by its `key`; a part with settings is a mapping of its name to them.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from types import ModuleType
from typing import Any, TypeVar

from toolchain.distill import matching, objectives, schedules, transforms
from toolchain.distill.extract import KNOWLEDGE, Extract
from toolchain.distill.matching import Matching, Uniform, Whole
from toolchain.distill.objectives import Objective
from toolchain.distill.reduction import REDUCTIONS, Reduction
from toolchain.distill.schedules import Constant, Schedule
from toolchain.distill.settings import build
from toolchain.distill.shapes import Unfit
from toolchain.distill.term import Term
from toolchain.distill.transforms import Transform
from toolchain.errors import UsageError
from toolchain.recipe import WrittenTerm
from toolchain.registry import unknown_name
from toolchain.spec import ModelSpec

__all__ = ["AXES", "parts_of", "read_terms"]

T = TypeVar("T")

AXES: Mapping[str, ModuleType] = {
    "match": matching,
    "transform": transforms,
    "objective": objectives,
    "schedule": schedules,
}
"""The packages that hold the parts of each axis."""

# Positions do not depend on sizes, so any sizes show which reduction fits.
_NOMINAL = ModelSpec(
    family="bert", layers=12, width=768, heads=12, ffn=3072, vocab=30522, max_tokens=512,
    num_labels=2,
)  # fmt: skip


def parts_of(axis: str) -> dict[str, type]:
    """Return the parts of one axis by the name recipes use."""
    module = AXES[axis]
    found = {}
    for name in module.__all__:
        value = getattr(module, name)
        if isinstance(value, type) and value.__dict__.get("key"):
            found[value.__dict__["key"]] = value
    return dict(sorted(found.items()))


def read_terms(written: Sequence[WrittenTerm]) -> tuple[Term, ...]:
    """Return the terms. Raises UsageError naming the term and the place of what cannot be read."""
    return tuple(_read(term, f"terms[{i}]") for i, term in enumerate(written))


def _read(written: WrittenTerm, where: str) -> Term:
    extract = _knowledge(written.knowledge, f"{where}.knowledge")
    default = Uniform() if extract.layered else Whole()
    match = _part("match", written.match, f"{where}.match", Matching) or default  # type: ignore[type-abstract]
    chain = tuple(
        _part("transform", item, f"{where}.transform", object) for item in written.transform
    )
    objective = _part("objective", written.objective, f"{where}.objective", Objective)  # type: ignore[type-abstract]
    schedule = _part("schedule", written.schedule, f"{where}.schedule", Schedule) or Constant()  # type: ignore[type-abstract]
    assert objective is not None
    if extract.layered and isinstance(match, Whole):
        raise UsageError(
            f"{where}: {extract.kind} exists once per block, and match 'final' names no block",
            "use match: last, uniform, ...",
        )
    return Term(
        name=written.name or f"{where}.{written.knowledge}",
        extract=extract,
        objective=objective,
        reduction=_reduction(written, extract, match, chain, objective, where),  # type: ignore[arg-type]
        match=match,
        transforms=chain,  # type: ignore[arg-type]
        weight=written.weight,
        schedule=schedule,
        stage=written.stage,
        layers=written.layers,
        guide=_knowledge(written.guide, f"{where}.guide") if written.guide else None,
        view=written.view,
    )


def _knowledge(name: str, where: str) -> Extract:
    if name not in KNOWLEDGE:
        raise unknown_name("knowledge", name, KNOWLEDGE, where)
    return KNOWLEDGE[name]


def _part(axis: str, item: str | dict[str, Any] | None, where: str, kind: type[T]) -> T | None:
    """Return one part: a name, or {name: {setting: value}}."""
    if item is None:
        return None
    if isinstance(item, dict) and len(item) != 1:
        raise UsageError(f"{where}: expected one name with its settings, found {item!r}")
    name, settings = next(iter(item.items())) if isinstance(item, dict) else (item, {})
    known = parts_of(axis)
    if name not in known:
        raise unknown_name(axis, name, known, where)
    if settings is not None and not isinstance(settings, dict):
        raise UsageError(f"{where}.{name}: expected a mapping of settings, found {settings!r}")
    what, place = f"{where}: {name!r}", f"{where}.{name}"
    part: object = build(known[name], settings or {}, what=what, where=place)
    assert isinstance(part, kind)
    return part


def _reduction(
    written: WrittenTerm,
    extract: Extract,
    match: Matching,
    chain: Sequence[Transform],
    objective: Objective,
    where: str,
) -> Reduction:
    """Return the reduction asked for, or the mean that fits what the transforms leave."""
    if written.reduction:
        if written.reduction not in REDUCTIONS:
            raise unknown_name("reduction", written.reduction, REDUCTIONS, where)
        return REDUCTIONS[written.reduction]
    try:
        shape = extract.shape(_NOMINAL)
        if match.stacked:
            shape = dataclasses.replace(shape, layers=_NOMINAL.layers)
        for transform in chain:
            shape = transform.resolve(shape, shape).shape(shape)
    except Unfit as unfit:
        raise UsageError(f"{where}: {unfit.problem}", unfit.way_out) from None
    return objective.default_reduction(shape)
