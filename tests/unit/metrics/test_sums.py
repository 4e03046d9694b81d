"""Multi-label, regression and language-model metrics against slow twins and known values."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from toolchain.errors import StepError
from toolchain.metrics import TokenSums, all_scores, interval, score

SCORES = st.lists(st.tuples(st.integers(-3, 3), st.integers(-3, 3)), min_size=2, max_size=25)


def slow_pearson(x: list[float], y: list[float]) -> float:
    mean_x, mean_y = math.fsum(x) / len(x), math.fsum(y) / len(y)
    xy = math.fsum((a - mean_x) * (b - mean_y) for a, b in zip(x, y, strict=True))
    xx = math.fsum((a - mean_x) ** 2 for a in x)
    yy = math.fsum((b - mean_y) ** 2 for b in y)
    return 0.0 if xx < 1e-12 or yy < 1e-12 else xy / math.sqrt(xx * yy)


def slow_ranks(values: list[float]) -> list[float]:
    return [
        sum(v < value for v in values) + (sum(v == value for v in values) + 1) / 2
        for value in values
    ]


@settings(max_examples=150)
@given(SCORES)
def test_correlations_equal_their_slow_twins(pairs: list[tuple[int, int]]) -> None:
    x, y = [float(a) for a, _ in pairs], [float(b) for _, b in pairs]
    outputs, labels = np.array(x)[:, None], np.array(y)
    assert score("pearson", outputs, labels) == pytest.approx(slow_pearson(x, y), abs=1e-9)
    ranked = slow_pearson(slow_ranks(x), slow_ranks(y))
    assert score("spearman", outputs, labels) == pytest.approx(ranked, abs=1e-9)
    squares = sum((a - b) ** 2 for a, b in pairs) / len(pairs)
    assert score("mse", outputs, labels) == pytest.approx(squares)


def test_a_rising_curve_has_a_perfect_rank_correlation_alone() -> None:
    labels = np.linspace(0, 5, 50)
    scores = all_scores(np.exp(labels)[:, None].astype(np.float32), labels.astype(np.float32))
    assert scores["spearman"] == pytest.approx(1)
    assert 0.8 < scores["pearson"] < 0.9
    assert set(scores) == {"pearson", "spearman", "mse"}


def test_correlation_survives_a_large_offset_and_a_constant_has_none() -> None:
    random = np.random.default_rng(0)
    labels = random.normal(size=500)
    outputs = (labels + random.normal(size=500))[:, None]
    plain = score("pearson", outputs, labels)
    assert score("pearson", outputs + 1e6, labels) == pytest.approx(plain, abs=1e-6)
    assert score("pearson", np.full((500, 1), 0.1), labels) == 0
    assert score("spearman", np.full((500, 1), 0.1), labels) == 0


@pytest.mark.parametrize("name", ["pearson", "spearman", "mse"])
def test_the_bootstrap_of_scores_agrees_with_resampling_the_rows(name: str) -> None:
    random = np.random.default_rng(1)
    labels = np.round(random.normal(size=200), 1)
    outputs = (labels + random.normal(size=200))[:, None]
    values = []
    for _ in range(1500):
        chosen = random.integers(0, 200, 200)
        values.append(score(name, outputs[chosen], labels[chosen]))
    expected = tuple(np.quantile(values, [0.025, 0.975]))
    found = interval(name, outputs, labels)
    spread = expected[1] - expected[0]
    assert found == pytest.approx(expected, abs=0.12 * spread)
    assert found == interval(name, outputs, labels)


SETS = st.integers(1, 4).flatmap(
    lambda labels: st.lists(
        st.tuples(
            st.lists(st.booleans(), min_size=labels, max_size=labels),
            st.lists(st.booleans(), min_size=labels, max_size=labels),
        ),
        min_size=1,
        max_size=15,
    )
)


@settings(max_examples=150)
@given(SETS)
def test_sets_of_labels_equal_their_slow_twins(rows: list[tuple[list[bool], list[bool]]]) -> None:
    on = np.array([said for said, _ in rows])
    gold = np.array([true for _, true in rows])
    scores = all_scores(np.where(on, 2.0, -0.5), gold.astype(np.float32))

    def f1(said: list[bool], true: list[bool]) -> float:
        hits = sum(a and b for a, b in zip(said, true, strict=True))
        return 2 * hits / (sum(said) + sum(true)) if hits else 0.0

    flat = [(a, b) for said, true in rows for a, b in zip(said, true, strict=True)]
    assert scores["micro_f1"] == pytest.approx(f1([a for a, _ in flat], [b for _, b in flat]))
    columns = [(on[:, c].tolist(), gold[:, c].tolist()) for c in range(on.shape[1])]
    known = [f1(said, true) for said, true in columns if any(said) or any(true)]
    assert scores["macro_f1"] == pytest.approx(sum(known) / len(known) if known else 0.0)
    equal = sum(said == true for said, true in rows)
    assert scores["subset_accuracy"] == pytest.approx(equal / len(rows))


def test_a_label_is_on_above_one_half() -> None:
    logits = np.array([[0.0, 1e-6], [-1e-6, 5.0]])
    gold = np.array([[0, 1], [0, 1]], dtype=np.float32)
    assert all_scores(logits, gold) == {"micro_f1": 1, "macro_f1": 1, "subset_accuracy": 1}


def test_loss_perplexity_and_accuracy_weigh_tokens_not_rows() -> None:
    sums = TokenSums(
        nll=np.array([3 * math.log(2), math.log(8)]),
        right=np.array([3, 0]),
        tokens=np.array([3, 1]),
    )
    scores = all_scores(sums, None)
    assert scores["loss"] == pytest.approx(6 * math.log(2) / 4)
    assert scores["perplexity"] == pytest.approx(2**1.5)
    assert scores["token_accuracy"] == 0.75
    low, high = interval("perplexity", sums, None) or (0, 0)
    assert (low, high) == pytest.approx((2, 8))


def test_a_hopeless_model_still_has_a_perplexity_that_can_be_written_down() -> None:
    sums = TokenSums(nll=np.array([1e6]), right=np.array([0]), tokens=np.array([10]))
    assert math.isfinite(score("perplexity", sums, None))


@pytest.mark.parametrize(
    ("name", "labels"),
    [("micro_f1", np.ones((2, 1), np.float32)), ("pearson", np.ones(2)), ("mse", np.ones(2))],
)
def test_outputs_that_are_not_finite_are_refused(name: str, labels: np.ndarray) -> None:
    with pytest.raises(StepError, match="not all finite"):
        score(name, np.array([[1.0], [np.nan]]), labels)
    with pytest.raises(StepError, match="not finite"):
        score("loss", TokenSums(nll=np.array([np.inf]), right=np.ones(1), tokens=np.ones(1)), None)
