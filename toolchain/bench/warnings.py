"""What looked wrong while measuring, and what to try: advice beside the figures.

Nothing is thrown away or corrected on these grounds; whoever reads the figures decides.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from toolchain.bench.environment import Environment
from toolchain.measurement import Measurement
from toolchain.stats import median

__all__ = ["what_looked_wrong"]

_WIDE_TAIL = 1.5
_DRIFT = 1.2
_SLOW_START = 1.2
_TIMER_SHARE = 0.01


@dataclass(frozen=True)
class _Check:
    """`severity` of one measurement (0: nothing to say), `says` what the number means."""

    severity: Callable[[Measurement], float]
    says: Callable[[Measurement, float], str]
    advice: str


def _fixed_length(measurement: Measurement) -> bool:
    # Among rows of the task's own lengths, a spread between runs and rounds is the data's.
    return measurement.load.tokens != "task"


def _round_medians(measurement: Measurement) -> list[float]:
    return [median(taken) for taken in measurement.rounds_ns()]


def _tail(measurement: Measurement) -> float:
    p50, p90 = measurement.percentile_ms(50), measurement.percentile_ms(90)
    if not _fixed_length(measurement) or p50 is None or p90 is None:
        return 0.0
    return p90 / p50 if p90 > _WIDE_TAIL * p50 else 0.0


def _drift(measurement: Measurement) -> float:
    medians = _round_medians(measurement)
    if not _fixed_length(measurement) or len(medians) < 2:
        return 0.0
    spread = max(medians) / min(medians)
    return spread if spread > _DRIFT else 0.0


def _slow_start(measurement: Measurement) -> float:
    first, *others = _round_medians(measurement)
    if not _fixed_length(measurement) or len(others) < 2:
        return 0.0
    # Slower than every later round: one slow round among several is drift, not a slow start.
    return first / median(others) if first > _SLOW_START * max(others) else 0.0


def _too_few(measurement: Measurement) -> float:
    missing = measurement.load.min_runs - len(measurement.samples_ns)
    return max(0.0, missing / measurement.load.min_runs)


def _coarse_timer(measurement: Measurement) -> float:
    share = (measurement.timer_ns or 0) / median(measurement.samples_ns)
    return share if share > _TIMER_SHARE else 0.0


_CHECKS = (
    _Check(
        _too_few,
        lambda m, _: f"only {len(m.samples_ns)} of {m.load.min_runs} runs were taken of",
        "it is too slow for that many in the time given; raise min_seconds",
    ),
    _Check(
        _tail,
        lambda _, value: f"p90 is {value:.1f} x p50 for",
        "something else was using the machine; close it, or ask for fewer threads",
    ),
    _Check(
        _slow_start,
        lambda _, value: f"the first round took {value:.1f} x the later ones for",
        "raise warmup",
    ),
    _Check(
        _drift,
        lambda _, value: f"the slowest round took {value:.1f} x the fastest for",
        "the machine changed speed (load, heat, frequency); trust the ratios between models more "
        "than the milliseconds, and measure again when it is quiet",
    ),
    _Check(
        _coarse_timer,
        lambda _, value: f"reading the clock took {value:.0%} of a run of",
        "use a larger batch or more tokens",
    ),
)


def _name(measurement: Measurement) -> str:
    tokens = measurement.load.tokens
    length = "the task's own lengths" if tokens == "task" else f"{tokens} tokens"
    return f"{measurement.model} at {length}"


def _about_machine(measurements: Sequence[Measurement], environment: Environment) -> list[str]:
    said = []
    threads, load = environment["threads"], environment["load"]
    if load > threads:
        said.append(
            f"the load average was {load:.1f} on {threads} hardware threads: other programs, or "
            "the training just before, were running; wait a minute and measure again"
        )
    asked = max((measurement.threads for measurement in measurements), default=0)
    if asked > threads:
        said.append(
            f"{asked} threads were asked for, this process may use {threads}: ask for at most that"
        )
    return said


def what_looked_wrong(measurements: Sequence[Measurement], environment: Environment) -> list[str]:
    """Return one sentence per kind of trouble, about the worst case, with what to try."""
    timed = [measurement for measurement in measurements if measurement.samples_ns]
    said = _about_machine(timed, environment)
    for check in _CHECKS:
        found = [(check.severity(measurement), measurement) for measurement in timed]
        found = [(severity, measurement) for severity, measurement in found if severity]
        if found:
            severity, worst = max(found, key=lambda pair: pair[0])
            more = f" (and {len(found) - 1} more)" if len(found) > 1 else ""
            what = check.says(worst, severity)
            said.append(f"{what} {_name(worst)}{more}: {check.advice}")
    return said
