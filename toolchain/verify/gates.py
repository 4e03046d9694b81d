"""Gates: figures against limits, told as sentences; pure functions that say pass, fail or open.

The fp32 export is judged by `exported`; a quantised variant against its fp32 parent by
`cosine`, `agreement`, `max_drop`, `smaller` and `faster`; what was promised of the shipped
variant by `min_kept` and `latency`. What follows from the verdicts is `toolchain.verify.choice`.
"""

import math

from toolchain.measurement import Measurement, Metric, Parity, Verdict
from toolchain.metrics import sign
from toolchain.recipe import Gates
from toolchain.stats import median, ratio_of_rounds
from toolchain.target import Target

__all__ = [
    "AGREEMENT",
    "COSINE",
    "FASTER",
    "LATENCY",
    "MAX_ABS",
    "MAX_DROP",
    "MIN_KEPT",
    "QUALITY",
    "SMALLER",
    "agreement",
    "cosine",
    "exported",
    "faster",
    "latency",
    "max_drop",
    "min_kept",
    "smaller",
]

MAX_ABS = "max_abs"
COSINE = "cosine"
AGREEMENT = "agreement"
MAX_DROP = "max_drop"
SMALLER = "smaller"
FASTER = "faster"
MIN_KEPT = "min_kept"
LATENCY = "latency_ms"

QUALITY = (COSINE, AGREEMENT, MAX_DROP)
"""Gates that say whether a quantised file answers like its parent."""

# A difference of two parts of n rows is not exact: 0.91 - 0.90 exceeds 0.01 in binary.
_ROUNDING = 1e-9


def exported(parity: Parity, gates: Gates, *, model: str, blocking: bool = True) -> Verdict:
    """Judge an fp32 export against PyTorch: of ONNX a miss is a matter of integrity (exit 4).

    Of another format (not `blocking`) it is what keeps that file from shipping.
    """
    passed = parity.rows > 0 and parity.max_abs <= gates.max_abs
    return Verdict(
        gate=MAX_ABS,
        model=model,
        limit=f"logits at most {gates.max_abs:g} from {parity.against}",
        observed=f"{parity.max_abs:.2g} over {parity.rows} {parity.unit}",
        passed=passed,
        why=(
            f"computes what {parity.against} computes"
            if passed
            else f"does not compute what {parity.against} computes"
        ),
        blocking=blocking,
    )


def cosine(parity: Parity, gates: Gates, *, model: str) -> Verdict:
    """Judge the direction of a quantised variant's logits against its parent's."""
    passed = parity.rows > 0 and parity.cosine >= gates.cosine
    return Verdict(
        gate=COSINE,
        model=model,
        limit=f"at least {gates.cosine:g} with {parity.against}",
        observed=(
            f"{parity.cosine:.5f} ({parity.unit}: mean {parity.mean_cosine:.5f}, lowest "
            f"{parity.min_cosine:.5f}) over {parity.rows} {parity.unit}"
        ),
        passed=passed,
        why=f"{'keeps' if passed else 'loses'} the direction of the logits of {parity.against}",
    )


def agreement(parity: Parity, gates: Gates, *, model: str) -> Verdict:
    """Judge how many decisions a quantised variant shares with its parent."""
    passed = parity.rows > 0 and parity.agreement >= gates.agreement
    changed = round((1 - parity.agreement) * parity.rows)
    return Verdict(
        gate=AGREEMENT,
        model=model,
        limit=f"at least {gates.agreement:.2%} of the decisions of {parity.against}",
        observed=f"{parity.agreement:.2%}: {changed} of {parity.rows} differ",
        passed=passed,
        why=f"decides {'like' if passed else 'too often unlike'} {parity.against}",
    )


def max_drop(candidate: Metric, parent: Metric, gates: Gates, *, model: str) -> Verdict:
    """Judge how much worse the task metric is than the fp32 parent's on the same split.

    Absolute: a drop, or a rise where lower is better. Of perplexity the logarithm counts, the loss:
    a rise of 0.01 is nothing at 1000, much at 2.
    """
    assert (candidate.name, candidate.split) == (parent.name, parent.split)
    change = candidate.value - parent.value
    name = candidate.name
    if name == "perplexity":
        name, change = "log perplexity", math.log(candidate.value / parent.value)
    higher = sign(candidate.name) > 0
    passed = (change if higher else -change) >= -gates.max_drop - _ROUNDING
    loses = "loses" if higher else "adds"
    return Verdict(
        gate=MAX_DROP,
        model=model,
        limit=(f"{name} at most {gates.max_drop:g} {'below' if higher else 'above'} fp32"),
        observed=(
            f"{candidate.value:.4f} against {parent.value:.4f} ({change:+.4f}) "
            f"on {candidate.rows} rows of {candidate.split}"
        ),
        passed=passed,
        why=f"{loses} {'no more' if passed else 'more'} {candidate.name} than allowed",
    )


def smaller(candidate_bytes: int, parent_bytes: int, *, model: str) -> Verdict:
    """Judge whether the file of a quantised variant is smaller than its parent's."""
    passed = candidate_bytes < parent_bytes
    return Verdict(
        gate=SMALLER,
        model=model,
        limit=f"less than the {parent_bytes:,} bytes of fp32",
        observed=f"{candidate_bytes:,} bytes ({candidate_bytes / parent_bytes:.1%})",
        passed=passed,
        why=f"{'is' if passed else 'is not'} smaller than its fp32 parent",
    )


def faster(
    candidate: Measurement | None,
    parent: Measurement | None,
    *,
    model: str,
    across: bool = False,
) -> Verdict:
    """Judge whether a variant is faster than its parent at the task's lengths.

    `across` lets the two be run by different runtimes, as files of different formats are.
    The figure is the median over the alternating rounds of parent time / candidate time, each
    side by its median of that round. Undecided without two comparable measurements, and where only
    the median of the rounds says so.
    """
    limit = "median speed-up per round above 1"
    if candidate is None or parent is None:
        return _undecided(FASTER, model, limit, "it was not measured beside fp32")
    doubt = _incomparable(candidate, parent, across=across)
    if doubt:
        return _undecided(FASTER, model, limit, doubt)
    ratio = ratio_of_rounds(_round_medians(parent), _round_medians(candidate))
    observed = (
        f"{ratio.median:.2f} x fp32 (quartiles {ratio.low:.2f} to {ratio.high:.2f} "
        f"of {ratio.rounds} rounds)"
    )
    passed = ratio.median > 1
    if passed and ratio.low <= 1:
        why = "is faster than fp32 in the median, but the rounds do not agree"
        return _undecided(FASTER, model, limit, why, observed=observed)
    return Verdict(
        gate=FASTER,
        model=model,
        limit=limit,
        observed=observed,
        passed=passed,
        why=f"{'is' if passed else 'is not'} faster than fp32 on the machine of this run",
    )


def min_kept(metric: Metric, gates: Gates, *, model: str) -> Verdict | None:
    """Judge the part of the teacher's metric kept; None where no limit was asked for."""
    if gates.min_kept is None:
        return None
    limit = f"at least {gates.min_kept:.1%} of the teacher's {metric.name}"
    if metric.kept is None:
        why = f"the teacher's {metric.name} is unknown or not above 0"
        found = f"{metric.name} {metric.value:.4f} on {metric.split}"
        return _undecided(MIN_KEPT, model, limit, why, observed=found, blocking=True)
    passed = metric.kept >= gates.min_kept - _ROUNDING
    return Verdict(
        gate=MIN_KEPT,
        model=model,
        limit=limit,
        observed=f"{metric.kept:.1%} ({metric.name} {metric.value:.4f} on {metric.split})",
        passed=passed,
        why=f"keeps {'enough' if passed else 'too little'} of the teacher's {metric.name}",
        blocking=True,
    )


def latency(
    measured: Measurement | None, gates: Gates, *, target: Target, model: str
) -> Verdict | None:
    """Judge p50 at the task's lengths; None where no limit was asked for.

    Decided only for a target that this run measures on; for any other, and without enough
    samples, the verdict is open and says why.
    """
    if gates.latency_ms is None:
        return None
    limit = f"p50 at most {gates.latency_ms:g} ms on {target.name}"
    if target.fidelity != "measured" or measured is None:
        return _undecided(LATENCY, model, limit, f"not measured on {target.name}", blocking=True)
    if measured.load.tokens != "task":
        why = f"measured at {measured.load.tokens} tokens, not at the task's lengths"
        return _undecided(LATENCY, model, limit, why, blocking=True)
    p50_ms = measured.percentile_ms(50)
    if p50_ms is None:
        why = f"{len(measured.samples_ns)} samples are too few for a p50"
        return _undecided(LATENCY, model, limit, why, blocking=True)
    passed = p50_ms <= gates.latency_ms
    return Verdict(
        gate=LATENCY,
        model=model,
        limit=limit,
        observed=f"{p50_ms:.3g} ms ({len(measured.samples_ns)} samples)",
        passed=passed,
        why=f"{'keeps' if passed else 'exceeds'} the latency budget at the task's lengths",
        blocking=True,
    )


def _incomparable(candidate: Measurement, parent: Measurement, *, across: bool) -> str:
    """Return why two measurements say nothing about each other, or an empty string."""
    if candidate.load != parent.load or candidate.load.tokens != "task":
        return "it was not measured at the task's lengths under the load of fp32"
    runtime = parent.runtime if across else candidate.runtime
    ours = (candidate.target, runtime, candidate.threads)
    if ours != (parent.target, parent.runtime, parent.threads):
        return "it was measured on another target, runtime or number of threads than fp32"
    rounds, others = candidate.rounds_ns(), parent.rounds_ns()
    if not rounds or len(rounds) != len(others) or not all([*rounds, *others]):
        return "it was not measured in the same rounds as fp32"
    return ""


def _round_medians(measurement: Measurement) -> list[float]:
    return [median(samples) for samples in measurement.rounds_ns()]


def _undecided(
    gate: str,
    model: str,
    limit: str,
    why: str,
    *,
    observed: str = "not measured",
    blocking: bool = False,
) -> Verdict:
    return Verdict(
        gate=gate,
        model=model,
        limit=limit,
        observed=observed,
        passed=None,
        why=why,
        blocking=blocking,
    )
