from dataclasses import replace

import pytest

from toolchain.bench.environment import environment
from toolchain.bench.warnings import what_looked_wrong
from toolchain.measurement import Load, Measurement

MS = 1_000_000


def measured(rounds, model="student", tokens=16, **changes):
    return replace(
        Measurement(
            model=model,
            target="host",
            fidelity="measured",
            runtime="onnxruntime",
            threads=1,
            load=Load(tokens=tokens, min_runs=100),
            samples_ns=tuple(sample for taken in rounds for sample in taken),
            round_sizes=tuple(len(taken) for taken in rounds),
            timer_ns=40,
        ),
        **changes,
    )


QUIET = [[MS, MS + 5000] * 10] * 5
SPIKY = [[MS] * 16 + [4 * MS] * 4] * 5
SLOW_FIRST = [[2 * MS] * 20] + [[MS] * 20] * 4
DRIFTING = [[MS] * 20, [MS] * 20, [int(1.3 * MS)] * 20, [MS] * 20, [MS] * 20]


@pytest.fixture
def idle():
    return {**environment(), "load": 0.1, "threads": 2}


def test_a_quiet_measurement_on_an_idle_machine_raises_no_warning(idle):
    assert what_looked_wrong([measured(QUIET)], idle) == []


def test_a_load_above_the_hardware_threads_is_told_with_both_numbers(idle):
    (said,) = what_looked_wrong([measured(QUIET)], {**idle, "load": 3.5})
    assert "load average was 3.5 on 2 hardware threads" in said
    assert "measure again" in said


def test_more_threads_than_there_are_is_told(idle):
    (said,) = what_looked_wrong([measured(QUIET, threads=8)], idle)
    assert "8 threads were asked for, this process may use 2" in said


def test_a_wide_tail_is_told_with_its_width(idle):
    (said,) = what_looked_wrong([measured(SPIKY)], idle)
    assert said.startswith("p90 is 4.0 x p50 for student at 16 tokens: ")


def test_rounds_that_drift_apart_are_told_with_how_far(idle):
    (said,) = what_looked_wrong([measured(DRIFTING)], idle)
    assert said.startswith("the slowest round took 1.3 x the fastest for student at 16 tokens: ")


def test_a_slow_first_round_is_told_with_what_to_raise(idle):
    said = what_looked_wrong([measured(SLOW_FIRST)], idle)
    assert (
        "the first round took 2.0 x the later ones for student at 16 tokens: raise warmup" in said
    )


def test_one_slow_round_in_the_middle_is_no_slow_start(idle):
    said = what_looked_wrong([measured(DRIFTING)], idle)
    assert not [sentence for sentence in said if "first round" in sentence]


def test_fewer_runs_than_asked_are_told_with_both_numbers(idle):
    few = measured(QUIET, load=Load(tokens=16, min_runs=500))
    (said,) = what_looked_wrong([few], idle)
    assert "only 100 of 500 runs were taken of student at 16 tokens" in said
    assert "raise min_seconds" in said


def test_a_run_as_short_as_reading_the_clock_is_told(idle):
    (said,) = what_looked_wrong([measured([[1000] * 20] * 5)], idle)
    assert "reading the clock took 4% of a run of student" in said


@pytest.mark.parametrize("rounds", [SPIKY, DRIFTING, SLOW_FIRST])
def test_the_spread_of_the_tasks_own_lengths_is_no_trouble(idle, rounds):
    assert what_looked_wrong([measured(rounds, tokens="task")], idle) == []


def test_one_kind_of_trouble_is_one_sentence_about_the_worst_case(idle):
    worse = [[MS] * 16 + [9 * MS] * 4] * 5
    found = [measured(SPIKY, "a"), measured(worse, "b"), measured(QUIET, "c"), measured(SPIKY, "d")]
    (said,) = what_looked_wrong(found, idle)
    assert said.startswith("p90 is 9.0 x p50 for b at 16 tokens (and 2 more): ")


def test_a_measurement_without_samples_says_nothing(idle):
    assert what_looked_wrong([measured([])], idle) == []
