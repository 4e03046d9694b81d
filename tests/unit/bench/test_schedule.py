import math
from collections import Counter
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from toolchain.bench.schedule import missing_repeats, orders, portions, repeats
from toolchain.measurement import Load


@pytest.mark.parametrize("contenders", range(1, 8))
def test_every_round_runs_every_contender_once(contenders):
    for order in orders(contenders, 20):
        assert sorted(order) == list(range(contenders))


@pytest.mark.parametrize("contenders", range(2, 8))
def test_over_a_cycle_every_contender_follows_every_other_equally_often(contenders):
    cycle = orders(contenders, contenders * (1 + contenders % 2))
    follows = Counter(pair for order in cycle for pair in pairwise(order))
    assert len(follows) == contenders * (contenders - 1)
    assert len(set(follows.values())) == 1
    places = Counter((place, who) for order in cycle for place, who in enumerate(order))
    assert len(set(places.values())) == 1


def test_two_contenders_take_turns_at_going_first():
    assert orders(2, 4) == [(0, 1), (1, 0), (0, 1), (1, 0)]


def feeds(count):
    return [{"input_ids": np.full((1, 1), number)} for number in range(count)]


def numbers(part):
    return [int(feed["input_ids"].item()) for feed in part]


@given(count=st.integers(1, 60), rounds=st.integers(1, 20))
def test_over_the_rounds_every_feed_comes_equally_often(count, rounds):
    parts = portions(feeds(count), rounds)
    assert len(parts) == rounds
    seen = Counter(number for part in parts for number in numbers(part))
    assert set(seen) == set(range(count))
    assert len(set(seen.values())) == 1
    assert all(parts)


def load(**changes):
    return Load(**{"tokens": 16, "min_seconds": 2.0, "min_runs": 100, **changes})


@given(
    run_ms=st.floats(0.01, 2000),
    per_pass=st.integers(1, 200),
    min_runs=st.integers(1, 2000),
    min_seconds=st.floats(0.01, 10),
)
def test_a_pass_holds_the_runs_and_the_seconds_or_stops_a_slow_contender(
    run_ms, per_pass, min_runs, min_seconds
):
    asked = load(min_runs=min_runs, min_seconds=min_seconds)
    runs = repeats(asked, per_pass, run_ms * 1e6) * per_pass
    assert runs * run_ms * 1e-3 >= min_seconds * (1 - 1e-9)
    if runs < min_runs:
        assert runs * run_ms * 1e-3 >= 3 * min_seconds * (1 - 1e-9)
        assert runs >= 100


def test_a_fast_contender_runs_for_the_seconds_asked():
    assert repeats(load(), 10, 1e6) * 10 == pytest.approx(2000 / 0.9, abs=10)


def test_a_slow_contender_stops_where_p90_is_supported():
    assert repeats(load(min_runs=1000), 10, 500e6) * 10 == 100


def test_a_slow_contender_with_few_runs_asked_takes_only_those():
    assert repeats(load(min_runs=20), 10, 500e6) * 10 == 20


def test_a_further_pass_brings_what_is_missing():
    taken = [1_000_000] * 500
    again = missing_repeats(load(), 10, taken)
    assert again == math.ceil(1500 / 0.9 / 10)
    assert missing_repeats(load(min_seconds=0.1), 10, taken) == 1
