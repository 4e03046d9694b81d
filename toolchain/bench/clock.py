"""The one timing loop: warm-up, calibration, alternating blocks."""

import gc
import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import cycle, islice

from toolchain.bench.schedule import missing_repeats, orders, portions, repeats
from toolchain.measurement import Load
from toolchain.runtimes.runtime import Feed, Session
from toolchain.stats import median

__all__ = ["Block", "alternate", "timer_ns"]

_TIMER_READINGS = 1001
_CALIBRATION_RUNS = 3


@dataclass(frozen=True)
class Block:
    """One uninterrupted series of runs of one contender, durations in nanoseconds."""

    round: int
    contender: str
    samples_ns: tuple[int, ...]


def timer_ns() -> int:
    """Return what an empty interval measures: the clock's own cost and resolution."""
    clock = time.perf_counter_ns
    readings = []
    for _ in range(_TIMER_READINGS):
        start = clock()
        end = clock()
        readings.append(end - start)
    return int(median(readings))


def _warm_up(session: Session, feeds: Sequence[Feed], load: Load, limit_s: float) -> None:
    """Run `load.warmup` times unmeasured; a slow contender stops after `limit_s`."""
    start = time.perf_counter()
    ask = _asking(session, load)
    for feed in islice(cycle(feeds), load.warmup):
        ask(feed)
        if time.perf_counter() - start > limit_s:
            break


def _asking(session: Session, load: Load) -> Callable[[Feed], object]:
    """Return what one run is: reading a feed, or going on with it too."""
    if load.new_tokens:
        return partial(session.generate, count=load.new_tokens)
    return session.run


def _timed(run: Callable[[Feed], object], feeds: Sequence[Feed]) -> list[int]:
    clock = time.perf_counter_ns
    samples = []
    for feed in feeds:
        start = clock()
        run(feed)
        end = clock()
        samples.append(end - start)
    return samples


def _estimate_ns(session: Session, feeds: Sequence[Feed], load: Load, limit_s: float) -> float:
    """Return a low estimate of one run's duration, so that one pass holds enough runs.

    At one length the fastest of a few runs; over the task's lengths, where the fastest is only
    the shortest row, their median.
    """
    _warm_up(session, feeds, load, limit_s)
    samples: list[int] = []
    for feed in cycle(feeds):
        samples += _timed(_asking(session, load), [feed])
        if len(samples) >= _CALIBRATION_RUNS and sum(samples) > limit_s * 1e9:
            break
    return median(samples) if load.tokens == "task" else min(samples)


def alternate(
    sessions: Mapping[str, Session],
    load: Load,
    feeds: Sequence[Feed],
    rounds: int,
    *,
    finished: Callable[[], None],
    own: Mapping[str, Sequence[Feed]] | None = None,
) -> list[Block]:
    """Time every session under one load, block by block in turn; returns blocks as they ran.

    Sessions named in `own` answer feeds of their own instead: the same rows in other tokens.

    The garbage collector rests inside blocks and works between them. `finished` is called after
    every block. Should the calibration have come out too high, so that a contender is short of
    `min_seconds`, a further pass over all rounds follows.
    """
    names = list(sessions)
    fed = {name: (own or {}).get(name, feeds) for name in names}
    parts = {name: portions(mine, rounds) for name, mine in fed.items()}
    per_pass = {name: sum(map(len, mine)) for name, mine in parts.items()}
    share_s = load.min_seconds / rounds
    times = {
        name: repeats(load, per_pass[name], _estimate_ns(session, fed[name], load, share_s))
        for name, session in sessions.items()
    }
    samples: dict[str, list[int]] = {name: [] for name in names}
    blocks: list[Block] = []
    goal_ns = math.ceil(load.min_seconds * 1e9)
    while not blocks or any(sum(samples[name]) < goal_ns for name in names):
        if blocks:
            times = {name: missing_repeats(load, per_pass[name], samples[name]) for name in names}
        start = len(blocks) // len(names)
        for number, order in enumerate(orders(len(names), rounds)):
            for name in (names[place] for place in order):
                part = parts[name][number]
                taken = _block(sessions[name], part, times[name], load, share_s)
                samples[name] += taken
                blocks.append(Block(start + number, name, tuple(taken)))
                finished()
    return blocks


def _block(
    session: Session, part: Sequence[Feed], times: int, load: Load, share_s: float
) -> list[int]:
    gc.collect()
    gc.disable()
    try:
        _warm_up(session, part, load, share_s)
        return _timed(_asking(session, load), list(part) * times)
    finally:
        gc.enable()
