from dataclasses import replace

import pytest

from toolchain.bench.compare import ratio
from toolchain.errors import UsageError
from toolchain.measurement import Load, Measurement


def measured(model, rounds, tokens=16):
    return Measurement(
        model=model,
        target="host",
        fidelity="measured",
        runtime="onnxruntime",
        threads=1,
        load=Load(tokens=tokens),
        samples_ns=tuple(sample for taken in rounds for sample in taken),
        round_sizes=tuple(len(taken) for taken in rounds),
    )


def test_a_slow_phase_that_hits_both_models_does_not_change_the_ratio():
    slow = measured("slow", [(30, 30, 30), (300, 300, 300), (30, 30, 31)])
    fast = measured("fast", [(10, 10), (100, 100), (10, 10)])
    found = ratio(slow, fast)
    assert (found.median, found.low, found.high, found.rounds) == (3.0, 3.0, 3.0, 3)


def test_the_ratio_is_of_the_medians_of_rounds_with_their_quartiles():
    slow = measured("slow", [(20, 1000, 20), (30, 30), (40,), (50,)])
    fast = measured("fast", [(10,), (10,), (10,), (10,)])
    found = ratio(slow, fast)
    assert (found.low, found.median, found.high) == (2.5, 3.5, 4.5)


def test_models_of_different_loads_or_rounds_are_not_compared():
    slow = measured("slow", [(30,), (30,)])
    with pytest.raises(UsageError, match="slow and fast were not timed against each other"):
        ratio(slow, measured("fast", [(10,), (10,)], tokens=32))
    with pytest.raises(UsageError, match="time them in one benchmark"):
        ratio(slow, replace(measured("fast", [(10,)])))
