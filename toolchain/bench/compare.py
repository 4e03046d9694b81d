"""How many times faster: one alternately timed model against another."""

from toolchain.errors import UsageError
from toolchain.measurement import Measurement
from toolchain.stats import Ratio, median, ratio_of_rounds

__all__ = ["ratio"]


def ratio(slow: Measurement, fast: Measurement) -> Ratio:
    """Return how many times longer `slow` takes than `fast`: above 1, `fast` is faster.

    The median over the rounds of the ratio of their medians, with quartiles as its spread. Raises
    UsageError unless both were timed in the same rounds under the same load.
    """
    if slow.load != fast.load or len(slow.round_sizes) != len(fast.round_sizes):
        raise UsageError(
            f"{slow.model} and {fast.model} were not timed against each other",
            "time them in one benchmark",
        )
    return ratio_of_rounds(
        [median(taken) for taken in slow.rounds_ns()], [median(taken) for taken in fast.rounds_ns()]
    )
