"""Percentiles, ratios and intervals: pure functions over samples."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

__all__ = [
    "Ratio",
    "enough_for",
    "mean_interval",
    "median",
    "percentile",
    "ratio_of_rounds",
    "samples_for",
    "wilson",
]

# Student's t: what 97.5 % lie below, for 1 to 30 degrees of freedom; more take the last, as wider.
_T = (
    12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228, 2.201, 2.179, 2.160,
    2.145, 2.131, 2.120, 2.110, 2.101, 2.093, 2.086, 2.080, 2.074, 2.069, 2.064, 2.060, 2.056,
    2.052, 2.048, 2.045, 2.042,
)  # fmt: skip

# A percentile is printed only when at least this many samples lie beyond it on the thinner side.
_TAIL = 10


def enough_for(count: int, q: float) -> bool:
    """Return whether `count` samples support the `q`-th percentile (0 < q < 100).

    At least ten samples must lie beyond it: p50 needs 20, p90 needs 100, p99 needs 1000.
    """
    return count >= samples_for(q)


def samples_for(q: float) -> int:
    """Return the smallest number of samples that supports the `q`-th percentile (0 < q < 100)."""
    # Rounded, because 100 - 99.9 is not quite 0.1.
    return math.ceil(round(_TAIL * 100 / min(q, 100 - q), 6))


def percentile(samples: Sequence[float], q: float) -> float | None:
    """Return the `q`-th percentile (linear interpolation), or None without enough samples."""
    if not enough_for(len(samples), q):
        return None
    ordered = sorted(samples)
    position = (len(ordered) - 1) * q / 100
    low = math.floor(position)
    high = min(low + 1, len(ordered) - 1)
    return ordered[low] + (ordered[high] - ordered[low]) * (position - low)


def median(samples: Sequence[float]) -> float:
    """Return the median of at least one sample."""
    ordered = sorted(samples)
    middle = len(ordered) // 2
    if len(ordered) % 2:
        return ordered[middle]
    return (ordered[middle - 1] + ordered[middle]) / 2


@dataclass(frozen=True)
class Ratio:
    """Median of per-round ratios with the spread between its quartiles."""

    median: float
    low: float
    high: float
    rounds: int


def ratio_of_rounds(numerator: Sequence[float], denominator: Sequence[float]) -> Ratio:
    """Compare two alternately measured series, one figure each per round.

    Dividing within a round cancels what slowed the whole machine in that round; the quartiles of
    the ratios say how much noise is left.
    """
    ratios = sorted(a / b for a, b in zip(numerator, denominator, strict=True))
    middle = len(ratios) // 2
    lower = ratios[: middle + len(ratios) % 2]
    return Ratio(median(ratios), median(lower), median(ratios[middle:]), len(ratios))


def mean_interval(samples: Sequence[float]) -> tuple[float, float] | None:
    """Return the 95 % t-interval of the mean of independent samples, or None for fewer than two."""
    count = len(samples)
    if count < 2:
        return None
    mean = math.fsum(samples) / count
    variance = math.fsum((x - mean) ** 2 for x in samples) / (count - 1)
    half = _T[min(count - 1, len(_T)) - 1] * math.sqrt(variance / count)
    return mean - half, mean + half


def wilson(successes: int, trials: int, z: float = 1.96) -> tuple[float, float]:
    """Return the Wilson score interval of a proportion (95 % for z = 1.96)."""
    if trials == 0:
        return 0.0, 1.0
    p = successes / trials
    scale = 1 + z * z / trials
    centre = (p + z * z / (2 * trials)) / scale
    half = z * math.sqrt(p * (1 - p) / trials + z * z / (4 * trials * trials)) / scale
    return max(0.0, centre - half), min(1.0, centre + half)
