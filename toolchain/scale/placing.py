"""Which placements are tried in which order, why one is refused, and the cheapest that fits.

The order is that of cost, cheapest first. A whole copy in every rank sends gradients once a step.
ZeRO-1 and 2 send as much, ZeRO-3 half as much again (arXiv 1910.02054, section 7); a sharded
teacher sends its weights once a step, tensor parallelism every block's result, offloading all
weights over a slower link. Reading a cache costs least of all, but a pass over the data goes before
it, so it comes last.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from toolchain.distill.records import Parts
from toolchain.errors import ResourceError, UsageError
from toolchain.recipe import Placement
from toolchain.scale.budget import Budget, Job, Placed, StudentPlace, TeacherPlace, budget_of
from toolchain.scale.hardware import Hardware

__all__ = ["Tried", "cheapest", "live_only", "resolve", "tried"]

_TEACHERS: tuple[TeacherPlace, ...] = ("whole", "zero3", "tensor_parallel", "offload", "cached")
_STUDENTS: tuple[StudentPlace, ...] = ("whole", "zero1", "zero2", "zero3", "offload")
# What a run of this version can do by itself; the rest is planned for.
_READY = frozenset({"whole", "zero3", "offload", "cached", "streamed"})


@dataclass(frozen=True)
class Tried:
    """One placement with what it needs; `refused` says why it is none here, or does not fit."""

    placed: Placed
    budget: Budget | None
    refused: str | None


def live_only(parts: Sequence[Parts]) -> str | None:
    """Return why the teachers must be there while the student trains, or None."""
    for own in parts:
        if own.surgery is not None and own.surgery.takes_modules:
            return f"{own.surgery.key} takes modules of the teacher"
        for operator in own.operators:
            if operator.reruns:
                return f"{operator.key}: {operator.reruns}"
    return None


def tried(
    job: Job,
    asked: Placement,
    hardware: Hardware,
    *,
    live: str | None = None,
    strict: bool = True,
) -> tuple[Tried, ...]:
    """Return every placement that `asked` leaves open, cheapest first, each with its budget.

    Unless `strict`, what is asked for by name is not refused for being pointless.
    """
    teachers = _TEACHERS if asked.teacher == "auto" else (asked.teacher,)
    students = _STUDENTS if asked.student == "auto" else (asked.student,)
    if not job.teachers:
        teachers = ("whole",)
    pairs = [Placed(teacher, student) for teacher in teachers for student in students]
    pairs.sort(key=lambda p: (_rank(p), _TEACHERS.index(_made(p))))
    found = []
    for placed in pairs:
        reason = _refused(placed, hardware, live, None if strict else asked)
        if reason:
            found.append(Tried(placed, None, reason))
            continue
        budget = budget_of(job, placed, hardware)
        found.append(Tried(placed, budget, budget.why_not()))
    return tuple(found)


def cheapest(found: Sequence[Tried]) -> Tried | None:
    """Return the first that fits."""
    return next((one for one in found if one.refused is None), None)


def resolve(job: Job, asked: Placement, hardware: Hardware, *, live: str | None = None) -> Budget:
    """Return the budget of the placement a run takes, the cheapest it can do.

    Raises ResourceError when none fits, naming the cheapest that would; UsageError for one that
    makes no sense here, or that this version plans but does not run.
    """
    found = tried(job, asked, hardware, live=live, strict=False)
    ready = [one for one in found if _is_ready(one.placed)]
    chosen = cheapest(ready)
    if chosen is not None and chosen.budget is not None:
        return chosen.budget
    if not ready:
        placed = found[0].placed
        raise UsageError(
            f"placement: {placed} is planned for, but not run by this version",
            "see what it would need with toolchain plan; leave placement out to run on one process",
        )
    first = ready[0]
    if first.budget is None:
        raise UsageError(f"placement: {first.placed}: {first.refused}", "leave placement to auto")
    open_ = Placement(hardware=asked.hardware)
    out = cheapest(tried(job, open_, hardware, live=live))
    way = (
        f"the cheapest placement that fits: {out.placed} (toolchain plan says what it needs); "
        if out
        else "no placement fits here; "
    )
    raise ResourceError(
        f"training {first.refused}",
        f"{way}or lower train.batch_size or data.max_tokens, or choose a smaller student",
    )


def _rank(placed: Placed) -> int:
    return _TEACHERS.index(_made(placed)) + _STUDENTS.index(placed.student)


def _made(placed: Placed) -> TeacherPlace:
    """A streamed teacher is one that becomes a cached one."""
    return "cached" if placed.teacher == "streamed" else placed.teacher


def _is_ready(placed: Placed) -> bool:
    return placed.teacher in _READY


def _refused(
    placed: Placed, hardware: Hardware, live: str | None, named: Placement | None
) -> str | None:
    """Return why a placement makes no sense here, whatever it needs.

    What is `named` may be pointless, such as pieces for one rank, and works.
    """
    sides = [
        place
        for place, asked in (
            (placed.teacher, named.teacher if named else "auto"),
            (placed.student, named.student if named else "auto"),
        )
        if asked == "auto"
    ]
    sharded = [place for place in sides if place.startswith("zero") or place == "tensor_parallel"]
    if sharded and hardware.ranks == 1:
        return f"{sharded[0]} divides among ranks, there is one"
    if "offload" in sides and not hardware.gpu:
        return "offload moves bytes from a GPU to host memory, here they are the same"
    if placed.teacher in ("cached", "streamed") and live:
        return f"the teacher cannot be cached: {live}"
    return None
