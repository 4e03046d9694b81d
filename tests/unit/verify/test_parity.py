"""Outputs against the parent's: what counts as equal, and what can never."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays
from numpy.typing import NDArray

from toolchain.errors import IntegrityError
from toolchain.verify.parity import Comparison, compare, logits_of

SHAPES = array_shapes(min_dims=2, max_dims=2, min_side=1, max_side=6)
FINITE = st.floats(-1e6, 1e6, width=32)


@st.composite
def two_arrays(draw: st.DrawFn) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    shape = draw(SHAPES)
    elements = st.floats(width=32, allow_nan=True, allow_infinity=True) | FINITE
    return (
        draw(arrays(np.float32, shape, elements=elements)),
        draw(arrays(np.float32, shape, elements=elements)),
    )


@settings(deadline=None)
@given(arrays(np.float32, SHAPES, elements=FINITE))
def test_identical_arrays_are_in_perfect_parity(logits: NDArray[np.float32]) -> None:
    parity = compare(logits, logits.copy(), against="itself")
    assert parity.max_abs == 0
    assert parity.agreement == 1
    assert parity.mean_cosine == pytest.approx(1, abs=1e-12)
    assert parity.min_cosine == pytest.approx(1, abs=1e-12)
    assert parity.rows == len(logits)


@settings(deadline=None)
@given(two_arrays())
def test_either_side_may_be_called_the_parent(
    both: tuple[NDArray[np.float32], NDArray[np.float32]],
) -> None:
    there, back = compare(*both, against="b"), compare(*reversed(both), against="a")
    assert there.max_abs == back.max_abs
    assert there.agreement == back.agreement
    assert there.min_cosine == pytest.approx(back.min_cosine, abs=1e-12)


@settings(deadline=None)
@given(two_arrays())
def test_figures_stay_in_their_ranges_whatever_the_input(
    both: tuple[NDArray[np.float32], NDArray[np.float32]],
) -> None:
    parity = compare(*both, against="b")
    assert parity.max_abs >= 0
    assert -1 <= parity.min_cosine <= parity.mean_cosine + 1e-12 <= 1 + 2e-12
    assert 0 <= parity.agreement <= 1


@pytest.mark.parametrize("poison", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("side", ["candidate", "parent", "both"])
def test_one_figure_that_is_not_finite_is_infinitely_far(poison: float, side: str) -> None:
    good = np.array([[1, 2], [3, 1], [0, 5], [2, 1]], np.float32)
    bad = good.copy()
    bad[2, 1] = poison
    candidate = good if side == "parent" else bad
    parent = good if side == "candidate" else bad
    parity = compare(candidate, parent, against="fp32")
    assert parity.max_abs == float("inf")
    assert parity.min_cosine == -1
    assert parity.mean_cosine == pytest.approx((3 - 1) / 4)
    assert parity.agreement == 3 / 4


def test_figures_are_those_of_a_worked_example() -> None:
    parent = np.array([[1, 0], [0, 1], [3, 4]], np.float32)
    candidate = np.array([[0, 1], [0, 2], [4, 3]], np.float32)
    parity = compare(candidate, parent, against="fp32")
    assert parity.against == "fp32"
    assert parity.max_abs == 1
    assert parity.min_cosine == 0
    assert parity.mean_cosine == pytest.approx((0 + 1 + 24 / 25) / 3)
    assert parity.agreement == pytest.approx(1 / 3)


def test_tiny_rows_keep_their_direction() -> None:
    parent = np.array([[1e-40, -1e-40]], np.float32)
    assert compare(parent * 2, parent, against="x").min_cosine == pytest.approx(1)
    assert compare(-parent, parent, against="x").min_cosine == pytest.approx(-1)


def test_a_zero_row_points_nowhere_unless_both_are_zero() -> None:
    zero, one = np.zeros((1, 3), np.float32), np.ones((1, 3), np.float32)
    assert compare(zero, one, against="x").min_cosine == 0
    assert compare(zero, zero, against="x").min_cosine == 1


def test_no_rows_prove_nothing() -> None:
    parity = compare(np.zeros((0, 2)), np.zeros((0, 2)), against="x")
    assert parity.max_abs == float("inf")
    assert (parity.mean_cosine, parity.agreement, parity.rows) == (-1, 0, 0)


@pytest.mark.parametrize("shape", [(3, 2), (2, 3), (6,)])
def test_other_shapes_are_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(IntegrityError, match="cannot be compared"):
        compare(np.zeros(shape), np.zeros((2, 2)), against="x")


class FirstIds:
    """Answers every row with its first two ids."""

    def run(self, feed: dict[str, NDArray[np.int64]]) -> NDArray[np.float32]:
        return feed["input_ids"][:, :2].astype(np.float32)

    def close(self) -> None:
        pass


def test_logits_come_back_in_the_order_of_the_batches() -> None:
    batches = [
        {"input_ids": np.array([[5, 6, 7]])},
        {"input_ids": np.array([[1, 2, 0, 0], [3, 4, 0, 0]])},
    ]
    assert logits_of(FirstIds(), batches).tolist() == [[5, 6], [1, 2], [3, 4]]


def test_nothing_to_run_is_refused() -> None:
    with pytest.raises(IntegrityError, match="no rows"):
        logits_of(FirstIds(), [])


def test_the_decision_of_a_set_of_labels_is_the_whole_set() -> None:
    parent = np.array([[1.0, -1.0, 2.0], [-1.0, -2.0, -3.0], [0.5, 0.5, 0.5]])
    ours = parent * 0.5
    ours[2, 1] = -0.01
    parity = compare(ours, parent, against="fp32", task="multi_label")
    assert parity.agreement == pytest.approx(2 / 3)
    # The most likely label of every row is still the same.
    assert compare(ours, parent, against="fp32").agreement == 1


def test_scores_agree_within_a_tenth_of_the_parents_spread() -> None:
    parent = np.linspace(0, 5, 101)[:, None]
    spread = parent.std()
    ours = parent.copy()
    ours[:10] += 0.09 * spread
    ours[10:30] -= 0.11 * spread
    parity = compare(ours, parent, against="fp32", task="regress")
    assert parity.agreement == pytest.approx(81 / 101)
    assert parity.cosine > 0.99
    ours[0] = np.nan
    assert compare(ours, parent, against="fp32", task="regress").max_abs == np.inf


@settings(deadline=None, max_examples=50)
@given(two_arrays(), st.integers(0, 6))
def test_pieces_add_up_to_the_whole(
    both: tuple[NDArray[np.float32], NDArray[np.float32]], cut: int
) -> None:
    ours, theirs = both
    pieces = Comparison("tag")
    pieces.add(ours[:cut], theirs[:cut])
    pieces.add(ours[cut:], theirs[cut:])
    found, whole = pieces.parity("x"), compare(ours, theirs, against="x")
    assert (found.max_abs, found.min_cosine) == (whole.max_abs, whole.min_cosine)
    assert (found.agreement, found.rows) == (whole.agreement, whole.rows)
    assert found.cosine == pytest.approx(whole.cosine, abs=1e-9)
    assert found.mean_cosine == pytest.approx(whole.mean_cosine, abs=1e-9)
    assert (found.unit, whole.unit) == ("tokens", "rows")


def test_embeddings_are_the_same_answer_where_they_point_the_same_way() -> None:
    parent = np.array([[1.0, 0.0], [0.0, 2.0], [1.0, 1.0]], dtype=np.float32)
    turned = np.array([[5.0, 0.0], [0.2, 2.0], [1.0, 0.7]], dtype=np.float32)
    parity = compare(turned, parent, against="parent", task="embed")
    # Cosines 1, 0.995 and 0.985.
    assert parity.agreement == pytest.approx(2 / 3)
    assert parity.min_cosine == pytest.approx(1.7 / np.sqrt(2 * 1.49))
