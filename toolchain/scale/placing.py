"""Which placements are tried in which order, why one is refused, and the cheapest that fits.

The order is that of cost, cheapest first. A whole copy in every rank sends gradients once a step.
ZeRO-1 and 2 send as much, ZeRO-3 half as much again (arXiv 1910.02054, section 7); a sharded
teacher sends its weights once a step, tensor parallelism every block's result, offloading all
weights over a slower link. Reading a cache costs least of all, but a pass over the data goes before
it, so it comes last.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

from toolchain.distill.records import Parts
from toolchain.errors import ResourceError, UsageError
from toolchain.recipe import Placement
from toolchain.scale.budget import Budget, Job, Placed, StudentPlace, TeacherPlace, budget_of
from toolchain.scale.cuts import why_not_cut
from toolchain.scale.hardware import Hardware

__all__ = ["Tried", "barred", "cheapest", "resolve", "tried"]

_TEACHERS: tuple[TeacherPlace, ...] = ("whole", "zero3", "tensor_parallel", "offload", "cached")
# Teachers that are read from disk while the student trains.
_READ: tuple[TeacherPlace, ...] = ("cached", "streamed")
_FREE: Mapping[str, str] = MappingProxyType({})
_STUDENTS: tuple[StudentPlace, ...] = ("whole", "zero1", "zero2", "zero3", "offload")


@dataclass(frozen=True)
class Tried:
    """One placement with what it needs; `refused` says why it is none here, or does not fit."""

    placed: Placed
    budget: Budget | None
    refused: str | None


def barred(parts: Sequence[Parts]) -> dict[str, str]:
    """Return why teachers cannot lie at some places, by the place."""
    found: dict[str, str] = {}
    for own in parts:
        if own.surgery is not None and own.surgery.takes_modules:
            taken = f"{own.surgery.key} takes modules of the teacher"
            found |= dict.fromkeys(_READ, f"the teacher cannot be cached: {taken}")
        for operator in own.operators:
            if operator.reruns:
                why = f"the teacher cannot be cached: {operator.key}: {operator.reruns}"
                found |= dict.fromkeys(_READ, why)
    return found


def tried(
    job: Job,
    asked: Placement,
    hardware: Hardware,
    *,
    bars: Mapping[str, str] = _FREE,
    strict: bool = True,
    beside: Sequence[Job] = (),
) -> tuple[Tried, ...]:
    """Return every placement that `asked` leaves open, cheapest first, each with its budget.

    `bars` say why teachers cannot lie at some places. Jobs `beside` this one lie where it lies: a
    placement must fit all of them, and its budget is that of the one that needs most there. Unless
    `strict`, what is asked for by name is not refused for being pointless.
    """
    jobs = (job, *beside)
    teachers = _TEACHERS if asked.teacher == "auto" else (asked.teacher,)
    students = _STUDENTS if asked.student == "auto" else (asked.student,)
    if not any(one.teachers for one in jobs):
        teachers = ("whole",)
    pairs = [Placed(teacher, student) for teacher in teachers for student in students]
    pairs.sort(key=lambda p: (_rank(p), _TEACHERS.index(_made(p))))
    found = []
    for placed in pairs:
        reason = _refused(placed, hardware, bars, None if strict else asked)
        reason = reason or _uncuttable(jobs, placed, hardware)
        if reason:
            found.append(Tried(placed, None, reason))
            continue
        budgets = [budget_of(one, placed, hardware) for one in jobs]
        lacking = [budget for budget in budgets if budget.why_not()]
        budget = max(lacking or budgets, key=lambda one: one.rank_bytes)
        found.append(Tried(placed, budget, budget.why_not()))
    return tuple(found)


def cheapest(found: Sequence[Tried]) -> Tried | None:
    """Return the first that fits."""
    return next((one for one in found if one.refused is None), None)


def resolve(
    job: Job,
    asked: Placement,
    hardware: Hardware,
    *,
    bars: Mapping[str, str] = _FREE,
    beside: Sequence[Job] = (),
) -> Budget:
    """Return the budget of the placement a run takes, the cheapest that fits all its jobs.

    Raises ResourceError when none fits, naming the cheapest that would; UsageError for one that
    makes no sense here.
    """
    found = tried(job, asked, hardware, bars=bars, strict=False, beside=beside)
    chosen = cheapest(found)
    if chosen is not None and chosen.budget is not None:
        return chosen.budget
    first = found[0]
    if first.budget is None:
        raise UsageError(f"placement: {first.placed}: {first.refused}", "leave placement to auto")
    open_ = Placement(hardware=asked.hardware)
    out = cheapest(tried(job, open_, hardware, bars=bars, beside=beside))
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


def _uncuttable(jobs: Sequence[Job], placed: Placed, hardware: Hardware) -> str | None:
    if placed.teacher != "tensor_parallel" or hardware.ranks == 1:
        return None
    reasons = (why_not_cut(spec, hardware.ranks) for job in jobs for spec in job.teachers)
    reason = next((reason for reason in reasons if reason), None)
    return f"the teacher's matrices cannot be cut: {reason}" if reason else None


def _refused(
    placed: Placed, hardware: Hardware, bars: Mapping[str, str], named: Placement | None
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
    # Pieces that are asked for by name are refused with a way out where their stage is known.
    if named is None or named.teacher == "auto" or placed.teacher in _READ:
        return bars.get(placed.teacher)
    return None
