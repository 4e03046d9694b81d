"""Who is timed when, and how often: pure functions, no clock.

A pass is `rounds` rounds; in a round every contender runs one block over the same portion of the
feeds. Every feed is run equally often by a contender, so a mix of lengths stays the task's mix,
and within a round all contenders answer the same feeds, so their ratio compares like with like.
(A contender with a tokenizer of its own answers the same texts in its own tokens.)
"""

import math
from collections.abc import Sequence

from toolchain.measurement import Load
from toolchain.runtimes.runtime import Feed
from toolchain.stats import samples_for

__all__ = ["missing_repeats", "orders", "portions", "repeats"]

# Estimates are taken for higher than the truth by as much.
_CAUTION = 0.9
# A contender may take this many times `min_seconds` before it is cut to what p90 needs.
_PATIENCE = 3


def orders(contenders: int, rounds: int) -> list[tuple[int, ...]]:
    """Return for each round the order in which the contenders run.

    Rows of a balanced Latin square (Williams 1949): over a cycle every contender runs equally
    often at every place and follows every other one equally often, so that no one always finds
    the caches, the clock frequency or the heat that a particular neighbour left.
    """
    zigzag = [(i + 1) // 2 if i % 2 else -(i // 2) for i in range(contenders)]
    square = [
        tuple((step + row) % contenders for step in zigzag) for row in range(max(contenders, 1))
    ]
    if contenders % 2:
        square += [tuple(reversed(order)) for order in square]
    return [square[number % len(square)] for number in range(rounds)]


def portions(feeds: Sequence[Feed], rounds: int) -> list[list[Feed]]:
    """Return the feeds of each round: a share of them, or all where there are fewer than rounds."""
    if len(feeds) < rounds:
        return [list(feeds)] * rounds
    return [list(feeds[number::rounds]) for number in range(rounds)]


def repeats(load: Load, per_pass: int, run_ns: float) -> int:
    """Return how often a block goes over its portion so that one pass holds what `load` asks for.

    `per_pass` is the number of runs of a pass without repeats, `run_ns` an estimate of one run.
    `min_runs` and `min_seconds` are both met, except for a contender so slow that
    `min_runs` would take more than three times `min_seconds`: it is stopped there, once p50 and
    p90 are supported.
    """
    min_ns = load.min_seconds * 1e9
    wanted = max(load.min_runs, math.ceil(min_ns / (_CAUTION * run_ns)))
    affordable = math.ceil(_PATIENCE * min_ns / run_ns)
    supported = min(load.min_runs, samples_for(90))
    return max(1, math.ceil(min(wanted, max(affordable, supported)) / per_pass))


def missing_repeats(load: Load, per_pass: int, samples_ns: Sequence[int]) -> int:
    """Return the repeats of a further pass for a contender with these samples, at least 1."""
    missing_ns = load.min_seconds * 1e9 - sum(samples_ns)
    run_ns = _CAUTION * sum(samples_ns) / len(samples_ns)
    return max(1, math.ceil(missing_ns / (run_ns * per_pass)))
