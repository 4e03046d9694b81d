import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from toolchain.stats import (
    enough_for,
    mean_interval,
    median,
    percentile,
    ratio_of_rounds,
    samples_for,
    wilson,
)

samples = st.lists(st.floats(1e-3, 1e6), min_size=1, max_size=300)


@pytest.mark.parametrize(
    ("q", "count"), [(50, 20), (90, 100), (10, 100), (99, 1000), (99.9, 10000)]
)
def test_a_percentile_needs_ten_samples_beyond_it(q, count):
    assert samples_for(q) == count
    assert enough_for(count, q)
    assert not enough_for(count - 1, q)


def test_without_enough_samples_there_is_no_percentile():
    assert percentile([1.0] * 99, 90) is None
    assert percentile([1.0] * 100, 90) == 1.0
    assert percentile([], 50) is None


@given(st.lists(st.floats(1e-3, 1e6), min_size=100, max_size=300), st.sampled_from([50, 75, 90]))
def test_percentiles_are_those_of_numpy(values, q):
    assert percentile(values, q) == pytest.approx(np.percentile(values, q), rel=1e-9)


@given(samples)
def test_the_median_is_that_of_numpy(values):
    assert median(values) == pytest.approx(np.median(values), rel=1e-9)


@given(samples, st.floats(0.1, 10))
def test_a_constant_ratio_has_no_spread(values, factor):
    found = ratio_of_rounds([value * factor for value in values], values)
    assert found.low == pytest.approx(factor)
    assert found.median == pytest.approx(factor)
    assert found.high == pytest.approx(factor)
    assert found.rounds == len(values)


@given(samples, samples)
def test_the_quartiles_enclose_the_median(a, b):
    size = min(len(a), len(b))
    found = ratio_of_rounds(a[:size], b[:size])
    assert found.low <= found.median <= found.high


def test_the_quartiles_are_the_medians_of_both_halves():
    found = ratio_of_rounds([1, 2, 3, 4, 5], [1] * 5)
    assert (found.low, found.median, found.high) == (2, 3, 4)
    found = ratio_of_rounds([1, 2, 3, 4], [1] * 4)
    assert (found.low, found.median, found.high) == (1.5, 2.5, 3.5)


def test_series_of_unequal_length_are_no_rounds():
    with pytest.raises(ValueError, match="zip"):
        ratio_of_rounds([1, 2], [1])


def test_the_wilson_interval_is_that_of_the_textbook():
    # Newcombe 1998, table I: 81 of 263 and 0 of 20.
    assert wilson(81, 263) == pytest.approx((0.2553, 0.3662), abs=5e-4)
    assert wilson(0, 20) == pytest.approx((0.0, 0.1611), abs=5e-4)


@given(st.integers(1, 10_000).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))))
def test_the_wilson_interval_holds_the_proportion_and_stays_between_zero_and_one(case):
    successes, trials = case
    low, high = wilson(successes, trials)
    assert 0 <= low <= successes / trials + 1e-12
    assert successes / trials - 1e-12 <= high <= 1


def test_without_trials_anything_is_possible():
    assert wilson(0, 0) == (0.0, 1.0)


def test_the_interval_of_a_mean_is_students():
    # Student 1908, hours of sleep gained with the second drug less those with the first: mean 1.58,
    # sd 1.23, and the published interval 0.70 to 2.46.
    gained = [1.2, 2.4, 1.3, 1.3, 0.0, 1.0, 1.8, 0.8, 4.6, 1.4]
    assert mean_interval(gained) == pytest.approx((0.70, 2.46), abs=5e-3)
    assert mean_interval([1.0]) is None
    low, high = mean_interval([0.0, 2.0])
    assert (low, high) == pytest.approx((1 - 12.706, 1 + 12.706))


def test_more_samples_than_the_table_has_are_a_little_wider_than_they_need_be():
    many = [0.0, 1.0] * 50
    low, high = mean_interval(many)
    assert high - 0.5 == pytest.approx(2.042 * 0.50252 / 10, rel=1e-3)
    assert low + high == pytest.approx(1.0)
