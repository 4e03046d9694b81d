"""Methods combined by `+`, and terms written in a recipe: one list of terms per stage.

Rules of methods.md section 5: weights multiply, identical terms are merged by their larger weight,
gold labels are one term, slots that only one method can fill refuse a second, and the order of the
names never matters.
"""

import dataclasses
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from toolchain.distill.aggregation import Aggregation
from toolchain.distill.operators import Operator
from toolchain.distill.settings import build
from toolchain.distill.surgery import Surgery
from toolchain.distill.term import STAGES, Method, Stage, Start, Term, find_method, methods
from toolchain.errors import UsageError
from toolchain.registry import unknown_name

__all__ = ["Composition", "compose"]

T = TypeVar("T")

_PART = re.compile(r"^(?P<name>[a-z0-9_]+)(@(?P<weight>[0-9.eE+-]+))?$")


@dataclass(frozen=True, kw_only=True)
class Composition:
    """Terms by stage, in the order of training, and what fills the exclusive slots.

    `needs_teachers` and `needs_assistants` are the largest numbers any part needs; `all_guides` and
    `finetunes_together` hold when any part asks for it; `notes` say what was merged.
    """

    text: str
    stages: Mapping[Stage, tuple[Term, ...]]
    aggregation: Aggregation | None = None
    operators: tuple[Operator, ...] = ()
    surgery: Surgery | None = None
    init: Start | None = None
    needs_teachers: int = 1
    needs_assistants: int = 0
    all_guides: bool = False
    finetunes_together: bool = False
    notes: tuple[str, ...] = ()


def compose(
    text: str,
    options: Mapping[str, Mapping[str, Any]],
    written: Sequence[Term] = (),
) -> Composition:
    """Read `a+b@0.5`, add terms written out, and return the whole.

    Raises UsageError for anything it cannot mean: unknown names and options, two methods that both
    want a slot only one can have, weights that are all zero.
    """
    parts = [_parse(part.strip(), text) for part in re.split(r"\+(?![0-9])", text)] if text else []
    names = [name for name, _ in parts]
    for name in options:
        if name not in names:
            raise UsageError(
                f"method_options names {name!r}, which the method {text!r} does not use"
            )
    if len(set(names)) != len(names):
        raise UsageError(f"method {text!r} names one method twice", "add up the weights instead")
    built = {name: (_chosen(name, options.get(name, {})), weight) for name, weight in sorted(parts)}
    found = [*written]
    for name, (chosen, weight) in built.items():
        for term in chosen.terms():
            full_name = f"{name}/{term.name}"
            found.append(dataclasses.replace(term, name=full_name, weight=term.weight * weight))
    if not found:
        raise UsageError("neither a method nor terms are named", "name one: --method kd")
    for term in found:
        if not 0 <= term.weight < math.inf:
            raise UsageError(
                f"method {text or 'terms'!r}: the weight of {term.name} is {term.weight:g}, "
                "expected a number of zero or more"
            )
    merged, notes = _merge([term for term in found if term.weight])
    if not merged:
        raise UsageError(f"method {text or 'terms'!r}: the weights of all terms are zero")
    stages = {stage: tuple(t for t in merged if t.stage == stage) for stage in STAGES}
    chosen_methods = {name: method for name, (method, _) in built.items()}
    inits = {method.init for method in chosen_methods.values() if method.init}
    operators = {repr(op): op for method in chosen_methods.values() for op in method.operators()}
    if len(operators) > 1:
        raise UsageError(
            f"method {text!r}: {' and '.join(sorted(operators))} both change the batch",
            "use one of them",
        )
    _check_operators(merged, tuple(operators.values()), text or "terms")
    return Composition(
        text=text or "terms",
        stages={stage: terms for stage, terms in stages.items() if terms},
        aggregation=_only("aggregation", {n: m.aggregation() for n, m in chosen_methods.items()}),
        operators=tuple(operators.values()),
        surgery=_only("surgery", {n: m.surgery() for n, m in chosen_methods.items()}),
        init=inits.pop() if len(inits) == 1 else None,
        needs_teachers=max((m.needs_teachers for m in chosen_methods.values()), default=1),
        needs_assistants=max((m.needs_assistants for m in chosen_methods.values()), default=0),
        all_guides=any(m.all_guides for m in chosen_methods.values()),
        finetunes_together=any(m.finetunes_together for m in chosen_methods.values()),
        notes=notes,
    )


def _only(slot: str, wanted: Mapping[str, T | None]) -> T | None:
    filled = {name: value for name, value in wanted.items() if value is not None}
    if len(filled) > 1 and len({repr(value) for value in filled.values()}) > 1:
        raise UsageError(
            f"{' and '.join(sorted(filled))} both set the {slot}, and there is only one",
            "use one of them",
        )
    return next(iter(filled.values()), None)


def _check_operators(terms: Sequence[Term], operators: Sequence[Operator], text: str) -> None:
    """Raise UsageError for a term that no operator serves or whose labels one voids.

    Or which learns from texts the models write, where none are.
    """
    makers = {op.key: op for op in operators if type(op).view is not Operator.view}
    for term in terms:
        if term.view != "plain" and (
            term.view not in makers or term.stage not in makers[term.view].stages
        ):
            raise UsageError(
                f"method {text!r}: term {term.name!r} reads the view {term.view!r}, "
                f"which nothing makes in stage {term.stage}",
                f"views here: {', '.join(['plain', *sorted(makers)])}",
            )
        writes = term.view in makers and makers[term.view].invents_labels
        if term.objective.needs_samples and not writes:
            raise UsageError(
                f"method {text!r}: term {term.name!r} ({term.objective.key}) learns from texts "
                f"that both models write, which the view {term.view!r} does not hold",
                "use the method minillm, and view: teacher_mixed",
            )
        for operator in operators:
            labelled = term.extract.kind == "labels" or term.objective.needs_labels
            unlabelled = operator.key if operator.key in makers else "plain"
            voided = operator.invents_labels and term.view == unlabelled
            if voided and labelled and term.stage in operator.stages:
                raise UsageError(
                    f"method {text!r}: term {term.name!r} learns gold labels, but "
                    f"{operator.key} trains on answers that nobody labelled",
                    "leave the labels out (for kd: method_options.kd.alpha=1)",
                )


def _parse(part: str, whole: str) -> tuple[str, float]:
    match = _PART.match(part)
    if not match:
        raise UsageError(
            f"method {whole!r}: cannot read {part!r}", "write name, name@weight, or a+b@0.5"
        )
    name = match["name"]
    if name not in methods.names():
        raise unknown_name("method", name, methods.names())
    try:
        weight = float(match["weight"] or 1.0)
    except ValueError:
        raise UsageError(f"method {whole!r}: {match['weight']!r} is not a weight") from None
    if not 0 <= weight < float("inf"):
        raise UsageError(f"method {whole!r}: the weight {weight:g} must be zero or more")
    return name, weight


def _chosen(name: str, options: Mapping[str, Any]) -> Method:
    where = f"method_options.{name}"
    return build(find_method(name), options, what=f"method {name!r}", where=where)


def _merge(terms: list[Term]) -> tuple[list[Term], tuple[str, ...]]:
    kept: dict[tuple[object, ...], Term] = {}
    notes = []
    for term in terms:
        labels = term.extract.kind == "labels"
        when = (term.stage, term.schedule, term.clock, term.view)
        key = ("labels", *when) if labels else term.same
        other = kept.get(key)
        if other is None:
            kept[key] = term
            continue
        winner, loser = (term, other) if term.weight > other.weight else (other, term)
        kept[key] = winner
        notes.append(
            f"{loser.name} is the same term as {winner.name}: kept once, {winner.weight:g}"
        )
    return list(kept.values()), tuple(notes)
