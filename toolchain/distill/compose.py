"""Methods combined by `+`: one list of terms per stage.

Rules of methods.md section 5: weights multiply, identical terms are merged by their larger weight,
gold labels are one term, the order of the names never matters.
"""

import dataclasses
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from toolchain.distill.term import STAGES, Method, Stage, Term, find_method, methods
from toolchain.errors import UsageError
from toolchain.registry import nearest, unknown_name

__all__ = ["Composition", "compose"]

_PART = re.compile(r"^(?P<name>[a-z0-9_]+)(@(?P<weight>[0-9.eE+-]+))?$")


@dataclass(frozen=True)
class Composition:
    """Terms by stage, in the order of training; `notes` say what was merged."""

    text: str
    stages: dict[Stage, tuple[Term, ...]]
    notes: tuple[str, ...]


def compose(text: str, options: Mapping[str, Mapping[str, Any]]) -> Composition:
    """Read `a+b@0.5` and return its terms. Raises UsageError for anything it cannot mean."""
    parts = [_parse(part.strip(), text) for part in re.split(r"\+(?![0-9])", text)]
    names = [name for name, _ in parts]
    for name in options:
        if name not in names:
            raise UsageError(
                f"method_options names {name!r}, which the method {text!r} does not use"
            )
    if len(set(names)) != len(names):
        raise UsageError(f"method {text!r} names one method twice", "add up the weights instead")
    found: list[Term] = []
    for name, weight in sorted(parts):
        for term in _build(name, options.get(name, {})).terms():
            full_name = f"{name}/{term.name}"
            found.append(dataclasses.replace(term, name=full_name, weight=term.weight * weight))
    merged, notes = _merge([term for term in found if term.weight])
    if not merged:
        raise UsageError(f"method {text!r}: the weights of all terms are zero")
    stages = {stage: tuple(t for t in merged if t.stage == stage) for stage in STAGES}
    return Composition(text, {stage: terms for stage, terms in stages.items() if terms}, notes)


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


def _build(name: str, options: Mapping[str, Any]) -> Method:
    cls = find_method(name)
    known = {f.name: f for f in dataclasses.fields(cls)}  # type: ignore[arg-type]
    for key, value in options.items():
        if key not in known:
            guess = nearest(key, known)
            offer = f"did you mean {guess!r}?" if guess else f"known: {', '.join(known) or 'none'}"
            raise UsageError(f"method {name!r} has no option {key!r}", offer)
        default = known[key].default
        number = isinstance(default, float) and isinstance(value, (int, float))
        if default is not None and not number and type(value) is not type(default):
            raise UsageError(
                f"method_options.{name}.{key}: expected {type(default).__name__}, found {value!r}"
            )
    return cls(**options)


def _merge(terms: list[Term]) -> tuple[list[Term], tuple[str, ...]]:
    kept: dict[tuple[object, ...], Term] = {}
    notes = []
    for term in terms:
        labels = term.extract.kind == "labels"
        key = ("labels", term.stage) if labels else term.same
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
