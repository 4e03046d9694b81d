"""Every gate on both sides of its limit, and the figures it tells."""

import math
from dataclasses import replace

import pytest

from toolchain.measurement import Load, Measurement, Metric, Parity, Verdict
from toolchain.recipe import Gates
from toolchain.target import Accepts, Budget, RuntimeSpec, Target
from toolchain.verify import gates as judge

GATES = Gates(
    max_abs=1e-4, cosine=0.99, agreement=0.97, max_drop=0.01, min_kept=0.9, latency_ms=15.0
)


def parity(
    *,
    max_abs: float = 0.0,
    cosine: float = 1.0,
    agreement: float = 1.0,
    rows: int = 1000,
) -> Parity:
    return Parity(
        against="fp32",
        max_abs=max_abs,
        cosine=cosine,
        mean_cosine=cosine,
        min_cosine=cosine,
        agreement=agreement,
        rows=rows,
    )


def metric(value: float, kept: float | None = None) -> Metric:
    return Metric(name="accuracy", value=value, split="dev", rows=872, kept=kept)


def measured(
    rounds: list[list[int]], *, tokens: int | str = "task", threads: int = 1
) -> Measurement:
    return Measurement(
        model="m",
        target="host",
        fidelity="measured",
        runtime="onnxruntime",
        threads=threads,
        load=Load(tokens=tokens),
        samples_ns=tuple(sample for samples in rounds for sample in samples),
        round_sizes=tuple(len(samples) for samples in rounds),
    )


def target(fidelity: str = "measured") -> Target:
    return Target(
        name="host" if fidelity == "measured" else "raspberry-pi-4",
        summary="a device",
        fidelity=fidelity,
        runtime=RuntimeSpec(name="onnxruntime"),
        accepts=Accepts(formats=["onnx"], precisions=["int8", "fp32"]),
        budget=Budget(memory_bytes=1 << 30),
    )


@pytest.mark.parametrize(("max_abs", "passed"), [(0.99e-4, True), (1e-4, True), (1.01e-4, False)])
def test_the_export_must_compute_what_pytorch_computes(max_abs: float, passed: bool) -> None:
    verdict = judge.exported(parity(max_abs=max_abs), GATES, model="onnx")
    assert verdict.passed is passed
    assert verdict.blocking
    assert verdict.gate == "max_abs"
    assert "1000 rows" in verdict.observed


@pytest.mark.parametrize(("cosine", "passed"), [(0.9901, True), (0.99, True), (0.9899, False)])
def test_a_quantised_variant_keeps_its_direction(cosine: float, passed: bool) -> None:
    verdict = judge.cosine(parity(cosine=cosine), GATES, model="int8")
    assert verdict.passed is passed
    assert not verdict.blocking


@pytest.mark.parametrize(("part", "passed"), [(0.971, True), (0.97, True), (0.969, False)])
def test_a_quantised_variant_keeps_its_decisions(part: float, passed: bool) -> None:
    verdict = judge.agreement(parity(agreement=part), GATES, model="int8")
    assert verdict.passed is passed
    assert f"{1000 - round(part * 1000)} of 1000 differ" in verdict.observed


@pytest.mark.parametrize("poison", [math.nan, math.inf])
def test_a_candidate_that_is_not_finite_never_passes(poison: float) -> None:
    broken = parity(max_abs=poison, cosine=-1, agreement=0)
    lost = parity(max_abs=poison, cosine=math.nan, agreement=math.nan, rows=0)
    for figures in (broken, lost):
        assert judge.exported(figures, GATES, model="m").passed is False
        assert judge.cosine(figures, GATES, model="m").passed is False
    assert judge.agreement(broken, GATES, model="m").passed is False


def test_no_rows_never_pass() -> None:
    nothing = parity(rows=0)
    assert judge.exported(nothing, GATES, model="m").passed is False
    assert judge.cosine(nothing, GATES, model="m").passed is False
    assert judge.agreement(nothing, GATES, model="m").passed is False


@pytest.mark.parametrize(
    ("value", "passed"),
    [(0.95, True), (0.91, True), (0.90, True), (0.899, False), (math.nan, False)],
)
def test_the_metric_may_drop_by_the_limit_and_no_further(value: float, passed: bool) -> None:
    verdict = judge.max_drop(metric(value), metric(0.91), GATES, model="int8")
    assert verdict.passed is passed
    assert "872 rows of dev" in verdict.observed


@pytest.mark.parametrize(
    ("value", "passed"), [(0.3, True), (0.5, True), (0.51, True), (0.52, False), (math.nan, False)]
)
def test_an_error_may_rise_by_the_limit_and_no_further(value: float, passed: bool) -> None:
    parent = Metric(name="mse", value=0.5, split="dev", rows=1500)
    verdict = judge.max_drop(replace(parent, value=value), parent, GATES, model="int8")
    assert verdict.passed is passed
    assert verdict.limit == "mse at most 0.01 above fp32"
    assert verdict.why == f"adds {'no more' if passed else 'more'} mse than allowed"


def test_an_equal_metric_is_told_as_no_change() -> None:
    assert "(+0.0000)" in judge.max_drop(metric(0.9), metric(0.9), GATES, model="m").observed


@pytest.mark.parametrize(("size", "passed"), [(99, True), (100, False), (101, False)])
def test_the_file_must_be_smaller(size: int, passed: bool) -> None:
    assert judge.smaller(size, 100, model="int8").passed is passed


@pytest.mark.parametrize(("ours", "passed"), [(990, True), (1000, False), (1010, False)])
def test_the_variant_must_be_faster(ours: int, passed: bool) -> None:
    verdict = judge.faster(measured([[ours] * 5] * 4), measured([[1000] * 5] * 4), model="int8")
    assert verdict.passed is passed


def test_the_speed_up_is_told_with_its_spread() -> None:
    parent = measured([[200, 200, 200], [200, 200, 900], [800], [210]])
    verdict = judge.faster(measured([[100], [100], [200], [300]]), parent, model="int8")
    assert verdict.observed == "2.00 x fp32 (quartiles 1.35 to 3.00 of 4 rounds)"
    assert verdict.passed


def test_rounds_that_disagree_decide_nothing_for_it() -> None:
    ours, parent = measured([[100], [100], [100]]), measured([[90], [110], [111]])
    verdict = judge.faster(ours, parent, model="int8")
    assert verdict.passed is None
    assert "1.10 x fp32" in verdict.observed
    assert "the rounds do not agree" in verdict.why


@pytest.mark.parametrize(
    ("ours", "parent", "why"),
    [
        (None, measured([[1]]), "not measured beside fp32"),
        (measured([[1]]), None, "not measured beside fp32"),
        (measured([[1]], tokens=32), measured([[1]], tokens=32), "the task's lengths"),
        (measured([[1]], threads=2), measured([[1]]), "number of threads"),
        (measured([[1], [1]]), measured([[1]]), "the same rounds"),
        (measured([]), measured([]), "the same rounds"),
        (measured([[1], []]), measured([[1], [1]]), "the same rounds"),
    ],
)
def test_speed_is_open_without_comparable_measurements(
    ours: Measurement | None, parent: Measurement | None, why: str
) -> None:
    verdict = judge.faster(ours, parent, model="int8")
    assert verdict.passed is None
    assert why in verdict.why


def only(verdict: Verdict | None) -> Verdict:
    assert verdict is not None
    return verdict


@pytest.mark.parametrize(("kept", "passed"), [(0.91, True), (0.9, True), (0.899, False)])
def test_the_part_kept_of_the_teachers_metric_is_a_promise(kept: float, passed: bool) -> None:
    verdict = only(judge.min_kept(metric(0.8, kept), GATES, model="int8"))
    assert verdict.passed is passed
    assert verdict.blocking


def test_the_part_kept_is_open_when_the_teachers_metric_is_unknown() -> None:
    assert only(judge.min_kept(metric(0.8), GATES, model="m")).passed is None


@pytest.mark.parametrize(
    ("p50_ns", "passed"), [(14_900_000, True), (15_000_000, True), (15_100_000, False)]
)
def test_latency_is_a_promise_where_it_is_measured(p50_ns: int, passed: bool) -> None:
    verdict = only(judge.latency(measured([[p50_ns] * 40]), GATES, target=target(), model="int8"))
    assert verdict.passed is passed
    assert verdict.blocking


def test_latency_is_never_claimed_for_a_device_that_was_not_measured() -> None:
    fast = measured([[1] * 40])
    verdict = only(judge.latency(fast, GATES, target=target("none"), model="int8"))
    assert verdict.passed is None
    assert verdict.why == "not measured on raspberry-pi-4"


@pytest.mark.parametrize(
    ("measurement", "why"),
    [
        (None, "not measured on host"),
        (measured([[1] * 19]), "19 samples are too few"),
        (measured([[1] * 40], tokens=32), "measured at 32 tokens"),
    ],
)
def test_latency_is_open_without_samples_at_the_tasks_lengths(
    measurement: Measurement | None, why: str
) -> None:
    verdict = only(judge.latency(measurement, GATES, target=target(), model="int8"))
    assert verdict.passed is None
    assert why in verdict.why


def test_what_was_not_asked_for_is_not_judged() -> None:
    assert judge.min_kept(metric(0.1, 0.1), Gates(), model="m") is None
    assert judge.latency(None, Gates(), target=target(), model="m") is None


def test_a_rise_of_perplexity_is_judged_by_its_logarithm() -> None:
    def perplexity(value: float) -> Metric:
        return Metric(name="perplexity", value=value, split="dev", rows=100)

    held = judge.max_drop(perplexity(1005.0), perplexity(1000.0), GATES, model="int8")
    lost = judge.max_drop(perplexity(2.1), perplexity(2.0), GATES, model="int8")
    assert (held.passed, lost.passed) == (True, False)
    assert lost.limit == "log perplexity at most 0.01 above fp32"


def test_two_runtimes_are_compared_only_where_that_is_meant() -> None:
    ours = replace(measured([[100], [100]]), runtime="openvino")
    parent = measured([[200], [200]])
    assert judge.faster(ours, parent, model="m").passed is None
    assert judge.faster(ours, parent, model="m", across=True).passed is True
    slow = replace(measured([[300], [300]]), runtime="openvino")
    assert judge.faster(slow, parent, model="m", across=True).passed is False


def test_a_miss_of_another_format_does_not_end_the_run() -> None:
    far = parity(max_abs=1.0)
    assert judge.exported(far, GATES, model="m").blocking
    assert not judge.exported(far, GATES, model="m", blocking=False).blocking
