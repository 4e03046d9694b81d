import dataclasses

import pytest

from toolchain.report.headline import basis, headline, labels, latency_of, subject
from toolchain.report.report import Latency, Ratio, Report


def without_latency(report: Report, *names: str) -> Report:
    models = tuple(
        dataclasses.replace(m, latency=()) if m.name in names else m for m in report.models
    )
    return dataclasses.replace(report, models=models, ratios=())


def entry(**changes: object) -> Latency:
    base = Latency(
        target="host",
        fidelity="measured",
        runtime="onnxruntime",
        threads=1,
        batch=1,
        tokens=32,
        scenario="single-stream",
        p50_ms=1.0,
        p90_ms=2.0,
        p99_ms=None,
        throughput_per_s=900.0,
        runs=200,
    )
    return dataclasses.replace(base, **changes)


def test_rows_go_from_teacher_over_baseline_to_student(report: Report) -> None:
    shuffled = dataclasses.replace(report, models=report.models[::-1])
    assert [row.label for row in headline(shuffled)] == [
        "teacher PyTorch fp32",
        "teacher ONNX fp32",
        "baseline ONNX fp32",
        "student ONNX fp32",
        "student ONNX int8",
    ]


def test_the_table_compares_task_lengths_and_32_tokens_on_the_measured_target(
    report: Report,
) -> None:
    chosen = basis(report)
    assert (chosen.target, chosen.tokens, chosen.extra) == ("host", "task", 32)
    assert chosen.reference == "teacher-torch"


def test_a_single_length_is_shown_once(reports: dict[str, Report]) -> None:
    chosen = basis(reports["one_length"])
    assert (chosen.tokens, chosen.extra) == (32, None)
    rows = headline(reports["one_length"])
    assert all(row.p50_ms is not None and row.extra_p50_ms is None for row in rows)


def test_the_fixed_length_nearest_to_32_is_taken(report: Report) -> None:
    model = dataclasses.replace(
        report.models[0], latency=tuple(entry(tokens=n) for n in (8, 24, 64, 128))
    )
    assert basis(dataclasses.replace(report, models=(model,), shipped={}, ratios=())).tokens == 24


def test_a_ratio_of_alternating_rounds_is_preferred_to_two_medians(report: Report) -> None:
    row = headline(report)[-1]
    assert row.speedup is not None
    assert (row.speedup.median, row.speedup.rounds) == (11.04, 10)
    plain = headline(dataclasses.replace(report, ratios=()))[-1]
    assert plain.speedup is not None
    teacher = headline(report)[0]
    assert plain.speedup.median == pytest.approx(teacher.p50_ms / plain.p50_ms)
    assert (plain.speedup.low, plain.speedup.rounds) == (None, 0)


def test_speedups_are_all_taken_at_one_load(report: Report) -> None:
    at_32 = Ratio(
        slow="teacher-torch", fast="student-int8", tokens=32, median=9.0, low=8.9, high=9.1,
        rounds=10,
    )  # fmt: skip
    both = dataclasses.replace(report, ratios=(at_32, *report.ratios))
    assert basis(both).ratio_tokens == "task"
    assert headline(both)[-1].speedup.median == 11.04
    only = dataclasses.replace(report, ratios=(at_32,))
    assert basis(only).ratio_tokens == 32
    teacher, student = headline(only)[0], headline(only)[3]
    assert student.speedup.median == pytest.approx(teacher.extra_p50_ms / student.extra_p50_ms)


def test_nothing_is_invented_for_a_model_that_was_not_timed(report: Report) -> None:
    row = headline(without_latency(report, "student-int8"))[-1]
    assert row.name == "student-int8"
    assert [row.p50_ms, row.p90_ms, row.p99_ms, row.extra_p50_ms, row.throughput_per_s] == [
        None
    ] * 5
    assert row.speedup is None
    assert row.fidelity is None


def test_without_a_teacher_in_pytorch_the_teacher_in_onnx_is_the_reference(report: Report) -> None:
    assert basis(without_latency(report, "teacher-torch")).reference == "teacher-onnx"


def test_one_timed_model_alone_is_compared_with_nothing(reports: dict[str, Report]) -> None:
    assert basis(reports["only_teacher"]).reference is None
    assert headline(reports["only_teacher"])[0].speedup is None


def test_measured_goes_before_emulated_and_one_thread_before_more(report: Report) -> None:
    entries = (
        entry(fidelity="estimated", p50_ms=1.0),
        entry(threads=4, p50_ms=2.0),
        entry(p50_ms=3.0),
        entry(scenario="offline", p50_ms=4.0),
        entry(batch=8, p50_ms=5.0),
    )
    model = dataclasses.replace(report.models[0], latency=entries)
    assert latency_of(model, "host", 32).p50_ms == 3.0
    assert latency_of(model, "host", 64) is None
    assert latency_of(model, "phone", 32) is None


def test_a_target_that_was_measured_goes_before_one_that_was_estimated(report: Report) -> None:
    estimated = entry(target="phone", fidelity="estimated", tokens="task")
    models = tuple(
        dataclasses.replace(m, latency=(estimated, *m.latency[: 5 if i == 0 else 0]))
        for i, m in enumerate(report.models)
    )
    assert basis(dataclasses.replace(report, models=models, ratios=())).target == "host"


def test_models_that_would_share_a_label_are_told_apart(
    report: Report, reports: dict[str, Report]
) -> None:
    twin = dataclasses.replace(report.models[4], name="student-b")
    words = labels(dataclasses.replace(report, models=(*report.models, twin)))
    assert words["student-int8"] == "student ONNX int8 (student-int8)"
    assert words["student-b"] == "student ONNX int8 (student-b)"
    assert words["student-fp32"] == "student ONNX fp32"
    many = labels(reports["crowded"])
    assert len(set(many.values())) == len(many)
    assert all(len(word) < 30 for word in many.values())


def test_the_report_is_about_what_is_shipped_else_about_the_last_student(
    report: Report, reports: dict[str, Report]
) -> None:
    assert subject(report).name == "student-int8"
    assert subject(reports["int8_refused"]).name == "student-fp32"
    assert subject(reports["nothing_shipped"]).name == "student-int8"
    assert subject(reports["only_teacher"]).name == "teacher-torch"
    assert subject(dataclasses.replace(report, models=(), shipped={}, ratios=())) is None


def test_the_row_says_for_which_targets_it_is_shipped(report: Report) -> None:
    shipped = {row.name: row.shipped_for for row in headline(report)}
    assert shipped.pop("student-int8") == ("host", "raspberry-pi-4")
    assert set(shipped.values()) == {()}
