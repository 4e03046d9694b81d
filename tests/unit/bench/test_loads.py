import numpy as np
import pytest

from toolchain.bench.loads import fixed_length, task_lengths
from toolchain.errors import UsageError


def real(row):
    return [int(i) for i, m in zip(row["input_ids"], row["attention_mask"], strict=True) if m]


def same(one, other):
    return all(
        a.keys() == b.keys() and all(np.array_equal(a[name], b[name]) for name in a)
        for a, b in zip(one, other, strict=True)
    )


@pytest.mark.parametrize("tokens", [2, 3, 8, 40])
def test_fixed_feeds_hold_exactly_the_tokens_asked_and_a_full_mask(rows, tokens):
    for feed in fixed_length(rows, tokens, 5, 0):
        assert {name: values.shape for name, values in feed.items()} == {
            "input_ids": (1, tokens),
            "attention_mask": (1, tokens),
            "token_type_ids": (1, tokens),
        }
        assert all(values.dtype == np.int64 for values in feed.values())
        assert feed["attention_mask"].all()


def test_fixed_feeds_begin_and_end_with_the_special_tokens_around_real_ones(rows):
    insides = {token for row in rows for token in real(row)[1:-1]}
    for feed in fixed_length(rows, 40, 8, 0):
        first, *inside, last = feed["input_ids"][0].tolist()
        assert (first, last) == (1, 2)
        assert set(inside) <= insides
        assert 1 not in inside
        assert 2 not in inside


def test_a_fixed_feed_starts_with_a_row_and_goes_on_with_the_next_ones(rows):
    feeds = {tuple(feed["input_ids"][0].tolist()) for feed in fixed_length(rows, 12, 8, 0)}
    joined = [token for row in rows * 3 for token in real(row)[1:-1]]
    starts = np.cumsum([0] + [len(real(row)) - 2 for row in rows])[:-1]
    assert feeds == {(1, *joined[start : start + 10], 2) for start in starts}


def test_the_same_seed_gives_the_same_feeds_and_another_one_others(rows):
    assert same(fixed_length(rows, 8, 5, 7), fixed_length(rows, 8, 5, 7))
    assert not same(fixed_length(rows, 8, 5, 7), fixed_length(rows, 8, 5, 8))
    assert same(task_lengths(rows, 5, 7), task_lengths(rows, 5, 7))


def test_batches_of_a_fixed_length_hold_different_rows(rows):
    (feed,) = fixed_length(rows, 8, 1, 0, batch=4)
    assert feed["input_ids"].shape == (4, 8)
    assert len({tuple(row) for row in feed["input_ids"].tolist()}) == 4


def test_more_feeds_than_rows_are_given_for_a_fixed_length(rows):
    assert len(fixed_length(rows[:2], 30, 9, 0)) == 9


def test_task_feeds_are_rows_without_their_padding_none_twice(rows):
    feeds = task_lengths(rows, 100, 0)
    found = sorted(feed["input_ids"][0].tolist() for feed in feeds)
    assert found == sorted(real(row) for row in rows)
    assert all(feed["attention_mask"].all() for feed in feeds)
    assert all(values.shape[0] == 1 for feed in feeds for values in feed.values())


def test_task_feeds_are_as_many_as_asked(rows):
    assert len(task_lengths(rows, 3, 0)) == 3


def test_rows_without_a_mask_are_refused_by_number(rows):
    with pytest.raises(UsageError, match="row 1: has input_ids, expected input_ids and attention"):
        task_lengths([rows[0], {"input_ids": rows[0]["input_ids"]}], 2, 0)


def test_rows_of_unequal_arrays_are_refused_by_number(rows):
    torn = {**rows[0], "token_type_ids": rows[0]["token_type_ids"][:5]}
    with pytest.raises(UsageError, match="row 0: expected 1-D arrays of one length"):
        fixed_length([torn], 8, 1, 0)


def test_rows_of_padding_only_are_refused_by_number(rows):
    blank = {name: values * 0 for name, values in rows[0].items()}
    with pytest.raises(UsageError, match="row 0: its attention_mask leaves no token"):
        task_lengths([blank], 1, 0)


def test_rows_with_nothing_between_their_ends_cannot_be_joined():
    empty = {"input_ids": np.array([1, 2]), "attention_mask": np.array([1, 1])}
    with pytest.raises(UsageError, match="no row holds a token between"):
        fixed_length([empty], 8, 1, 0)


def test_no_rows_and_too_short_a_load_are_refused(rows):
    with pytest.raises(UsageError, match="no rows to time on"):
        task_lengths([], 1, 0)
    with pytest.raises(UsageError, match="a load of 1 tokens: expected at least 2"):
        fixed_length(rows, 1, 1, 0)
