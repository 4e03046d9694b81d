"""Which variant ships to a target: the best one that passes, and why each other one does not."""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from toolchain.measurement import Verdict
from toolchain.target import Target
from toolchain.verify.gates import AGREEMENT, COSINE, MAX_ABS, MAX_DROP

__all__ = ["Candidate", "Shipping", "choose"]


@dataclass(frozen=True, kw_only=True)
class Candidate:
    """One variant that might ship; `model` is the name its verdicts bear."""

    model: str
    precision: str
    opset: int
    file_bytes: int
    format: str = "onnx"


@dataclass(frozen=True, kw_only=True)
class Shipping:
    """What ships to one target.

    `model` is None when nothing may ship; `proved` is False when that is because the fp32 export
    does not equal PyTorch. `rejected` gives one sentence for every other candidate
    tried before it. `unmet` are promises (blocking gates, exit 3) that even the chosen variant
    misses, `undecided` the gates of the chosen variant that could not be decided here.
    """

    target: str
    model: str | None
    why: str
    proved: bool = True
    rejected: Mapping[str, str] = field(default_factory=dict)
    unmet: tuple[Verdict, ...] = ()
    undecided: tuple[Verdict, ...] = ()


def choose(
    candidates: Sequence[Candidate],
    verdicts: Iterable[Verdict],
    target: Target,
    p50_ms: Mapping[str, float] | None = None,
) -> Shipping:
    """Choose the best variant for a target from the verdicts that hold for it.

    The fastest by `p50_ms` (by model) is tried first where this was measured on the target; what
    was not measured, and all of them elsewhere, in the target's order of precisions, then of
    formats (best first). Only a failed gate rejects; an undecided one is reported. A variant that
    is sound but misses a promise ships only when no sound one keeps it. Nothing ships unless the
    fp32 export was proved equal to PyTorch, since every other variant is proved against it; then
    `proved` is False and the caller raises IntegrityError (exit 4).
    """
    known = list(verdicts)
    ordered = _best_first(candidates, target, p50_ms or {})
    unproved = _unproved(known)
    if unproved:
        return Shipping(
            target=target.name,
            model=None,
            why=f"nothing ships: {unproved}",
            proved=False,
            rejected={candidate.model: unproved for candidate in ordered},
        )
    rejected: dict[str, str] = {}
    wanting: list[tuple[Candidate, tuple[Verdict, ...]]] = []
    for candidate in ordered:
        own = [verdict for verdict in known if verdict.model == candidate.model]
        unsound = _unsound(candidate, own, target)
        missed = tuple(v for v in own if v.blocking and v.passed is False)
        if unsound:
            rejected[candidate.model] = unsound
        elif missed:
            rejected[candidate.model] = _sentence(missed[0])
            wanting.append((candidate, missed))
        else:
            return _shipping(target, candidate, own, rejected, ())
    if not wanting:
        why = f"no variant can ship to {target.name}"
        return Shipping(target=target.name, model=None, why=why, rejected=rejected)
    best, missed = wanting[0]
    own = [verdict for verdict in known if verdict.model == best.model]
    others = {model: why for model, why in rejected.items() if model != best.model}
    return _shipping(target, best, own, others, missed)


def _shipping(
    target: Target,
    candidate: Candidate,
    own: Sequence[Verdict],
    rejected: Mapping[str, str],
    unmet: tuple[Verdict, ...],
) -> Shipping:
    if unmet:
        why = f"no variant keeps every promise, {candidate.model} is the best sound one"
    elif rejected:
        why = f"{candidate.model} is the best variant that passes"
    else:
        why = f"{candidate.model} passes"
    return Shipping(
        target=target.name,
        model=candidate.model,
        why=why,
        rejected=dict(rejected),
        unmet=unmet,
        undecided=tuple(verdict for verdict in own if verdict.passed is None),
    )


def _best_first(
    candidates: Sequence[Candidate], target: Target, p50_ms: Mapping[str, float]
) -> list[Candidate]:
    order: list[str] = list(target.accepts.precisions)
    measured = p50_ms if target.fidelity == "measured" else {}

    formats = target.accepts.formats

    def rank(candidate: Candidate) -> tuple[float, int, int]:
        return (
            measured.get(candidate.model, math.inf),
            _place(order, candidate.precision),
            _place(formats, candidate.format),
        )

    return sorted(candidates, key=rank)


def _place(order: Sequence[str], name: str) -> int:
    return order.index(name) if name in order else len(order)


def _unproved(verdicts: Sequence[Verdict]) -> str:
    """Return why the fp32 export proves nothing, or an empty string."""
    # Other formats' fp32 files are judged by the same gate, each for itself.
    exports = [v for v in verdicts if v.gate == MAX_ABS and v.blocking]
    if not exports:
        return "the fp32 export was not compared with PyTorch"
    for verdict in exports:
        if not verdict.passed:
            return _sentence(verdict)
    return ""


def _unsound(candidate: Candidate, own: Sequence[Verdict], target: Target) -> str:
    """Return why a variant is not what it says or cannot run there, or an empty string."""
    refused = target.why_not(
        format=candidate.format,
        precision=candidate.precision,
        opset=candidate.opset,
        file_bytes=candidate.file_bytes,
    )
    if refused:
        return refused[0]
    if candidate.precision != "fp32":
        passed = {verdict.gate for verdict in own if verdict.passed}
        failed = {verdict.gate for verdict in own if verdict.passed is False}
        decided = passed | failed
        if COSINE not in decided or not decided & {AGREEMENT, MAX_DROP}:
            return f"{candidate.model} was not compared with its fp32 parent"
    for verdict in own:
        if verdict.passed is False and not verdict.blocking:
            return _sentence(verdict)
    return ""


def _sentence(verdict: Verdict) -> str:
    return f"{verdict.model} {verdict.why}: {verdict.observed}, expected {verdict.limit}"
