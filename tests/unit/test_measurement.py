import json
from dataclasses import replace

import pytest

from toolchain.measurement import Load, Measurement, Metric, Parity, Verdict
from toolchain.stats import median

MEASURED = Measurement(
    model="student",
    target="host",
    fidelity="measured",
    runtime="onnxruntime",
    threads=1,
    load=Load(tokens=16),
    samples_ns=tuple(range(1_000_000, 1_000_000 + 120_000, 1000)),
    round_sizes=(50, 40, 30),
    timer_ns=40,
)


def test_percentiles_are_derived_in_milliseconds():
    assert MEASURED.percentile_ms(50) == pytest.approx(1.0595)
    assert MEASURED.percentile_ms(90) == pytest.approx(1.1071)


def test_a_percentile_without_enough_samples_is_none():
    assert MEASURED.percentile_ms(99) is None


def test_rounds_are_the_samples_in_order():
    rounds = MEASURED.rounds_ns()
    assert [len(taken) for taken in rounds] == [50, 40, 30]
    assert tuple(sample for taken in rounds for sample in taken) == MEASURED.samples_ns
    assert median(rounds[2]) == 1_104_500


def test_the_report_entry_holds_the_raw_samples_and_says_what_they_are_of():
    entry = MEASURED.as_json()
    assert json.loads(json.dumps(entry)) == entry
    assert entry["samples"] == list(MEASURED.samples_ns)
    assert entry["runs"] == 120
    assert sum(entry["round_sizes"]) == 120
    assert entry["p99_ms"] is None
    assert entry["timer_ns"] == 40
    expected = {"target": "host", "fidelity": "measured", "runtime": "onnxruntime", "threads": 1}
    expected |= {"batch": 1, "tokens": 16, "scenario": "single-stream"}
    assert expected.items() <= entry.items()


def test_throughput_counts_every_row_of_a_batch():
    one = MEASURED.as_json()["throughput_per_s"]
    assert one == pytest.approx(120 / (sum(MEASURED.samples_ns) / 1e9))
    eight = replace(MEASURED, load=Load(tokens=16, batch=8, scenario="offline"))
    assert eight.as_json()["throughput_per_s"] == pytest.approx(8 * one)


def test_nothing_measured_is_an_entry_without_figures():
    entry = replace(MEASURED, samples_ns=(), round_sizes=()).as_json()
    assert (entry["runs"], entry["p50_ms"], entry["throughput_per_s"]) == (0, None, None)


def test_entries_of_metric_parity_and_verdict_are_plain_json():
    metric = Metric(name="accuracy", value=0.9, split="dev", rows=100, ci95=(0.83, 0.94))
    parity = Parity(
        against="teacher",
        max_abs=0.1,
        cosine=1.0,
        mean_cosine=1.0,
        min_cosine=1.0,
        agreement=1.0,
        rows=9,
    )
    verdict = Verdict(
        gate="kept", model="student", limit="0.95", observed="0.97", passed=True, why="enough"
    )
    for entry in (metric.as_json(), parity.as_json(), verdict.as_json()):
        assert json.loads(json.dumps(entry)) == entry
    assert metric.as_json()["ci95"] == [0.83, 0.94]
    assert verdict.as_json()["name"] == "kept"
