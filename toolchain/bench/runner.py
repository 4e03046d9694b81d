"""The benchmark seen from outside: contenders and loads in, measurements out."""

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

from toolchain.artifact import write_atomic
from toolchain.bench.environment import cpu_model, packages
from toolchain.bench.job import (
    Contender,
    Job,
    LoadResult,
    feeds_digest,
    feeds_path,
    model_digest,
    read_result,
    write_feeds,
)
from toolchain.bench.process import run_worker
from toolchain.errors import StepError, UsageError
from toolchain.measurement import Fidelity, Load, Measurement
from toolchain.progress import Progress
from toolchain.registry import unknown_name
from toolchain.runtimes.runtime import Feed, runtimes

__all__ = ["Contender", "time_contenders"]

_TASK = "benchmark"


def _check_contenders(contenders: Sequence[Contender]) -> None:
    if not contenders:
        raise UsageError("a benchmark without a model", "name at least one model to time")
    name, times = Counter(contender.name for contender in contenders).most_common(1)[0]
    if times > 1:
        raise UsageError(f"{times} models of one benchmark are called {name!r}")
    known = runtimes.names()
    for contender in contenders:
        if contender.runtime not in known:
            raise unknown_name("runtime", contender.runtime, known, contender.name)
        if not contender.path.exists():
            raise UsageError(f"{contender.name}: {contender.path}: no such file or folder")


def _check_case(load: Load, feeds: Sequence[Feed]) -> None:
    where = f"load of {load.tokens} tokens, batch {load.batch}"
    if load.scenario == "server":
        raise UsageError(f"{where}: the server scenario is not timed here", "use single-stream")
    if load.scenario == "single-stream" and load.batch != 1:
        raise UsageError(f"{where}: single-stream means batch 1", "use offline for batches")
    if load.min_runs < 1 or load.min_seconds <= 0 or load.warmup < 0:
        raise UsageError(f"{where}: min_runs and min_seconds must be positive, warmup not negative")
    if not feeds:
        raise UsageError(f"{where}: no feeds")
    for feed in feeds:
        for name, values in feed.items():
            fits = values.ndim == 2 and load.tokens in ("task", values.shape[1])
            if not fits or values.shape[0] != load.batch:
                raise UsageError(f"{where}: a feed's {name} is {values.shape}")


def _prepare(
    work: Path,
    job: Job,
    cases: Sequence[tuple[Load, Sequence[Feed]]],
    own: Mapping[str, Sequence[Sequence[Feed]]],
) -> None:
    """Write the specification and the feeds; drop results of another specification."""
    work.mkdir(parents=True, exist_ok=True)
    for stale in [*work.glob("load-*.json"), *work.glob("feeds-*.npz")]:
        number = int(stale.stem.split("-")[1])
        if number >= len(cases) or read_result(work, number, job) is None:
            stale.unlink()
    for number, (_, feeds) in enumerate(cases):
        write_feeds(feeds_path(work, number), feeds)
        for name, path in job.own_feeds(work, number).items():
            write_feeds(path, own[name][number])
    write_atomic(work / "spec.json", job.as_json())


def time_contenders(
    contenders: Sequence[Contender],
    cases: Sequence[tuple[Load, Sequence[Feed]]],
    *,
    target: str,
    fidelity: Fidelity,
    threads: int,
    provider: str,
    rounds: int,
    work: Path,
    progress: Progress,
    own: Mapping[str, Sequence[Sequence[Feed]]] | None = None,
) -> list[Measurement]:
    """Time every contender under every load, in turns, in one process of their own.

    `own` has the feeds of contenders with other tokens than the rest, by name, case by case.

    Each round runs a block of every contender over the same feeds, in an order that is balanced
    over the rounds. Finished loads stay in `work`: the same call there goes on where it was
    stopped, and with everything finished measures nothing; give another folder to measure again.
    Measurements come load by load, contenders in the given order.

    Raises UsageError for contenders or feeds that do not fit, what the runtimes raise on opening,
    and StepError when the worker fails or is killed.
    """
    _check_contenders(contenders)
    if not cases:
        raise UsageError("a benchmark without a load", "give at least one load with its feeds")
    own = own or {}
    for number, (load, feeds) in enumerate(cases):
        for answered in (feeds, *(mine[number] for mine in own.values())):
            _check_case(load, answered)
    if rounds < 1 or threads < 1:
        raise UsageError(f"rounds and threads must be at least 1, found {rounds} and {threads}")
    job = Job(
        contenders=tuple(Contender(c.name, c.runtime, c.path.resolve()) for c in contenders),
        models=tuple(model_digest(contender.path) for contender in contenders),
        loads=tuple(load for load, _ in cases),
        feeds=tuple(feeds_digest(feeds) for _, feeds in cases),
        threads=threads,
        provider=provider,
        rounds=rounds,
        made_with={"cpu": cpu_model(), **packages()},
        own={name: tuple(map(feeds_digest, mine)) for name, mine in own.items()},
    )
    _prepare(work, job, cases, own)
    results = _run(work, job, progress)
    return [
        _measurement(contender, load, result, target=target, fidelity=fidelity, threads=threads)
        for load, result in zip(job.loads, results, strict=True)
        for contender in job.contenders
    ]


def _run(work: Path, job: Job, progress: Progress) -> list[LoadResult]:
    """Let the worker time what is missing and return all results."""
    total = len(job.loads) * len(job.contenders) * job.rounds
    kept = [read_result(work, number, job) for number in range(len(job.loads))]
    if any(kept):
        finished = sum(result is not None for result in kept)
        progress.say(f"{finished} of {len(kept)} loads were timed before and are kept")
    if not all(kept):
        seen = 0

        def heard(line: str) -> None:
            nonlocal seen
            # Libraries of the worker may print too, and the end is announced once, below.
            if line.isdecimal() and seen < int(line) < total:
                seen = int(line)
                progress.advance(_TASK, seen, total)

        run_worker(
            "toolchain.bench.worker",
            [str(work)],
            threads=job.threads,
            log=work / "worker.log",
            heard=heard,
        )
    results = []
    for number in range(len(job.loads)):
        result = read_result(work, number, job)
        if result is None:
            raise StepError(f"{work}: the worker ended without a result for load {number}")
        results.append(result)
    progress.advance(_TASK, total, total)
    return results


def _measurement(
    contender: Contender,
    load: Load,
    result: LoadResult,
    *,
    target: str,
    fidelity: Fidelity,
    threads: int,
) -> Measurement:
    rounds = result.rounds_of(contender.name)
    return Measurement(
        model=contender.name,
        target=target,
        fidelity=fidelity,
        runtime=contender.runtime,
        threads=threads,
        load=load,
        samples_ns=tuple(sample for taken in rounds for sample in taken),
        round_sizes=tuple(len(taken) for taken in rounds),
        timer_ns=result.timer_ns,
    )
