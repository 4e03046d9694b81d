import dataclasses
import json
import math

import pytest

from toolchain.errors import ToolchainError, UsageError
from toolchain.measurement import Load, Measurement
from toolchain.report.report import Curve, Latency, Points, Report


def keys(value: object) -> set[str]:
    assert isinstance(value, dict)
    return set(value)


def test_the_keys_of_schema_1_are_frozen(report: Report) -> None:
    content = report.as_json()
    assert content["schema"] == 1
    assert keys(content) == {
        "schema", "created", "command", "recipe_digest", "warnings", "environment", "task",
        "models", "gates", "steps", "shipped", "ratios", "curves", "plan", "base_model", "license",
    }  # fmt: skip
    assert keys(content["task"]) == {"name", "metric", "rows"}
    model = content["models"][4]
    assert keys(model) == {
        "name", "role", "format", "precision", "path", "sha256", "parameters", "file_bytes",
        "peak_bytes", "cold_start_ms", "metric", "parity", "latency", "decoding",
    }  # fmt: skip
    assert keys(model["metric"]) == {
        "name", "value", "kept", "ci95", "seeds", "split", "rows", "others",
    }  # fmt: skip
    assert keys(model["parity"]) == {
        "against", "max_abs", "cosine", "mean_cosine", "min_cosine", "agreement", "rows",
        "unit",
    }  # fmt: skip
    assert keys(model["latency"][0]) == {
        "target", "fidelity", "runtime", "threads", "batch", "tokens", "scenario", "p50_ms",
        "p90_ms", "p99_ms", "throughput_per_s", "runs", "round_sizes", "samples", "timer_ns",
    }  # fmt: skip
    assert keys(content["gates"][0]) == {
        "name", "model", "limit", "observed", "passed", "why", "blocking",
    }  # fmt: skip
    assert keys(content["steps"][0]) == {"name", "seconds", "inputs", "outputs", "skipped"}
    assert keys(content["shipped"]["host"]) == {"model", "precision", "path"}
    assert keys(content["ratios"][0]) == {
        "slow", "fast", "tokens", "median", "low", "high", "rounds",
    }  # fmt: skip
    curve = content["curves"][0]
    assert keys(curve) == {"run", "stage", "points", "evals", "samples_per_s", "shares"}
    assert keys(curve["points"]) == {"step", "loss", "lr", "parts"}
    assert keys(curve["evals"]) == {"step", "metric"}
    assert keys(content["plan"]) == {
        "student", "teacher", "init", "layer_map", "method", "terms", "reasons",
    }  # fmt: skip


def test_json_is_read_back_as_the_same_report(any_report: Report) -> None:
    content = json.loads(json.dumps(any_report.as_json(), allow_nan=False))
    again = Report.from_json(content)
    assert again == any_report
    assert again.as_json() == content


def test_keys_of_later_versions_are_ignored(report: Report) -> None:
    content = report.as_json() | {"energy": {"joules": 3}}
    content["models"][0]["colour"] = "blue"
    assert Report.from_json(content) == report


@pytest.mark.parametrize("schema", [2, 0, None, "1"])
def test_another_schema_is_refused_by_name(report: Report, schema: object) -> None:
    content = report.as_json() | {"schema": schema}
    with pytest.raises(ToolchainError, match=rf"old\.json: schema {schema!r} found, schema 1") as e:
        Report.from_json(content, where="old.json")
    assert e.value.exit_code == 2


def test_a_missing_key_and_a_wrong_value_are_named(report: Report) -> None:
    content = report.as_json()
    del content["task"]
    with pytest.raises(UsageError, match=r"report\.json: task: Field required"):
        Report.from_json(content)
    content = report.as_json()
    content["models"][1]["latency"][0]["fidelity"] = "guessed"
    with pytest.raises(UsageError, match=r"models\.1\.latency\.0\.fidelity"):
        Report.from_json(content)


def test_two_models_of_one_name_are_refused(report: Report) -> None:
    twice = dataclasses.replace(report, models=(*report.models, report.models[0]))
    with pytest.raises(UsageError, match="two models are called 'teacher-torch'"):
        twice.validate()


def test_what_is_shipped_or_compared_must_be_among_the_models(report: Report) -> None:
    fewer = dataclasses.replace(report, models=report.models[:4])
    with pytest.raises(UsageError, match=r"shipped\.host names 'student-int8'"):
        fewer.validate()
    with pytest.raises(UsageError, match="a ratio names 'student-int8'"):
        dataclasses.replace(fewer, shipped={}).validate()


def test_a_curve_of_unequal_columns_is_refused(report: Report) -> None:
    uneven = Curve(run="distill", stage="pred", points=Points(step=(1, 2), loss=(0.5,)))
    with pytest.raises(UsageError, match="curve distill/pred: 1 of loss for 2 steps"):
        dataclasses.replace(report, curves=(uneven,)).validate()


def test_a_number_that_is_not_finite_is_written_as_unknown(report: Report) -> None:
    points = Points(step=(1, 2), loss=(math.nan, math.inf))
    diverged = dataclasses.replace(report, curves=(Curve(run="distill", stage="a", points=points),))
    assert diverged.as_json()["curves"][0]["points"]["loss"] == [None, None]


def test_a_measurement_becomes_the_entry_it_describes() -> None:
    measurement = Measurement(
        model="m",
        target="host",
        fidelity="measured",
        runtime="onnxruntime",
        threads=1,
        load=Load(tokens=32, batch=2),
        samples_ns=tuple(range(1_000_000, 2_000_000, 10_000)),
        round_sizes=(50, 50),
        timer_ns=40,
    )
    entry = Latency.of(measurement)
    assert dataclasses.asdict(entry) == measurement.as_json() | {
        "round_sizes": (50, 50),
        "samples": measurement.samples_ns,
    }
    assert entry.p90_ms is not None
    assert entry.p99_ms is None


def test_an_unknown_model_names_those_there_are(report: Report) -> None:
    assert report.model("baseline").role == "baseline"
    with pytest.raises(UsageError, match=r"no model 'student'.*known: teacher-torch, teacher-onnx"):
        report.model("student")
