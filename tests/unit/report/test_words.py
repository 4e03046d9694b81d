import dataclasses

import pytest

from toolchain.report import states, words
from toolchain.report.headline import headline
from toolchain.report.report import Latency, Report


def with_ratio(report: Report, median: float, low: float, high: float) -> Report:
    ratio = dataclasses.replace(report.ratios[0], median=median, low=low, high=high)
    return dataclasses.replace(report, ratios=(ratio,))


def test_the_sentence_is_built_from_the_figures(reports: dict[str, Report]) -> None:
    assert words.sentence(reports["tiny"]) == (
        "3-layer student, int8: 8.0x faster than the teacher in PyTorch, 17.6 MB instead of "
        "90.9 MB, keeps 97.8 % of its accuracy on dev."
    )


def test_of_a_loss_both_figures_are_said_and_no_part_is_kept(report: Report) -> None:
    models = tuple(
        dataclasses.replace(m, metric=dataclasses.replace(m.metric, name="loss"))
        for m in report.models
        if m.metric
    )
    losses = dataclasses.replace(report, models=models)
    assert {row.kept for row in headline(losses)} == {None}
    sentence = words.sentence(losses)
    assert "keeps" not in sentence
    assert "loss 0.8" in sentence
    assert "on dev against 0.9" in sentence


def test_the_gain_in_the_same_runtime_stands_beside_the_gain_over_pytorch(report: Report) -> None:
    assert "(5.5x with both in ONNX Runtime)" in words.sentence(report)


@pytest.mark.parametrize(
    ("ratio", "said"),
    [
        ((8.0, 7.9, 8.1), "8.0x faster than the teacher in PyTorch"),
        ((0.8, 0.79, 0.81), "1.2x slower than the teacher in PyTorch"),
        ((1.03, 0.97, 1.1), "not measurably faster or slower than the teacher in PyTorch"),
    ],
)
def test_a_slower_student_is_called_slower(
    report: Report, ratio: tuple[float, float, float], said: str
) -> None:
    assert f": {said}" in words.sentence(with_ratio(report, *ratio))


def test_unknown_figures_are_left_out_of_the_sentence(reports: dict[str, Report]) -> None:
    bare = tuple(
        dataclasses.replace(m, latency=(), file_bytes=None) for m in reports["sparse"].models
    )
    sentence = words.sentence(dataclasses.replace(reports["sparse"], models=bare))
    assert sentence == "The student, int8: Matthews correlation 0.0000 on dev."


def test_a_run_that_ships_nothing_says_so_first(reports: dict[str, Report]) -> None:
    assert words.sentence(reports["nothing_shipped"]) == (
        "Nothing is shipped: no variant passed its gates for host and raspberry-pi-4."
    )


def test_a_teacher_alone_is_described_by_itself(reports: dict[str, Report]) -> None:
    sentence = words.sentence(reports["only_teacher"])
    assert sentence.startswith("The teacher in PyTorch, fp32: p50 8.")
    assert "faster" not in sentence


def test_an_estimate_is_never_said_without_the_word(report: Report) -> None:
    def guessed(entry: Latency) -> Latency:
        return dataclasses.replace(entry, fidelity="estimated")

    models = tuple(
        dataclasses.replace(m, latency=tuple(guessed(e) for e in m.latency)) for m in report.models
    )
    estimated = dataclasses.replace(report, models=models, ratios=())
    assert "(estimated)" in words.sentence(estimated)
    assert "estimated on host" in words.conditions(estimated)
    row = headline(estimated)[0]
    assert words.with_fidelity("8.68", row.latency) == "8.68 (estimated)"
    assert words.with_fidelity("-", row.latency) == "-"
    assert words.with_fidelity("8.68", headline(report)[0].latency) == "8.68"


def test_a_missing_p99_says_how_many_samples_it_needs(
    report: Report, reports: dict[str, Report]
) -> None:
    assert words.p99_reason(headline(report)[0]) == ""
    reason = words.p99_reason(headline(reports["tiny"])[0])
    assert reason == "needs 1,000 samples, 400 were taken"


def test_a_ratio_between_runtimes_admits_it(report: Report) -> None:
    said = {(c.fast, c.slow): c for c in words.comparisons(report)}
    assert said["student ONNX int8", "teacher PyTorch fp32"].runtime_changed
    assert not said["student ONNX int8", "teacher ONNX fp32"].runtime_changed
    first = words.comparisons(report)[0]
    assert str(first) == (
        "student ONNX int8: 11.0x faster than teacher PyTorch fp32 at the task's lengths "
        "(10.71 to 11.26, 10 rounds; part of it is the runtime)"
    )


def test_a_numbered_label_is_explained(report: Report, reports: dict[str, Report]) -> None:
    assert words.legend(report) == []
    assert len(words.legend(reports["crowded"])) == 10
    assert "student ONNX int8 (1) is student-int8" in words.legend(reports["crowded"])


def test_gates_are_counted_by_verdict(report: Report, reports: dict[str, Report]) -> None:
    tally = states.tally(report)
    assert (tally.passed, tally.failed, tally.undecided, tally.blocking) == (8, 0, 1, 0)
    assert str(tally) == "8 of 9 gates passed, 1 undecided"
    refused = states.tally(reports["int8_refused"])
    assert (refused.failed, refused.blocking) == (2, 1)
    assert str(states.tally(reports["tiny"])) == "the gate passed"
    assert str(states.tally(reports["only_teacher"])) == "no gates were applied"


def test_a_variant_that_is_not_shipped_names_the_gate_it_failed(
    report: Report, reports: dict[str, Report]
) -> None:
    assert states.not_shipped(report) == []
    assert states.not_shipped(reports["int8_refused"]) == [
        "student ONNX int8 is not shipped (max_drop: 0.0317, limit <= 0.01)"
    ]
    assert states.blocked(reports["int8_refused"]) == [
        "gate latency failed the run: student ONNX fp32 has 2.26 ms, limit <= 2 ms"
    ]


def test_a_target_that_was_not_timed_is_not_measured(
    report: Report, reports: dict[str, Report]
) -> None:
    host, board = states.target_states(report)
    assert (host.name, host.fidelity, host.shipped) == ("host", "measured", "student ONNX int8")
    assert host.conditions == "PyTorch and ONNX Runtime, 1 thread; tokens: 16, 32, 64, 128, task"
    assert (board.fidelity, board.conditions) == ("not measured", "")
    assert {s.shipped for s in states.target_states(reports["nothing_shipped"])} == {"nothing"}
    assert {s.shipped for s in states.target_states(reports["only_teacher"])} == {""}
