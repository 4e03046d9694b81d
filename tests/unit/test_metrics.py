import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from toolchain.errors import StepError, UsageError
from toolchain.metrics import METRICS, all_scores, better, for_task, interval, resolve, score, sign
from toolchain.recipe import DataTask, Recipe
from toolchain.stats import wilson


def _logits(predictions: np.ndarray, classes: int) -> np.ndarray:
    return np.eye(classes)[predictions]


def _slow_f1(predictions: list[int], labels: list[int], classes: int) -> float:
    def of(c: int) -> float:
        hits = sum(p == c and y == c for p, y in zip(predictions, labels, strict=True))
        false_positive = sum(p == c and y != c for p, y in zip(predictions, labels, strict=True))
        missed = sum(p != c and y == c for p, y in zip(predictions, labels, strict=True))
        if hits == 0:
            return 0.0
        precision = hits / (hits + false_positive)
        recall = hits / (hits + missed)
        return 2 * precision * recall / (precision + recall)

    if classes == 2:
        return of(1)
    present = sorted({*predictions, *labels})
    return sum(of(c) for c in present) / len(present)


def _slow_matthews(predictions: list[int], labels: list[int], classes: int) -> float:
    """Pearson correlation of one-hot rows, summed over classes: Gorodkin 2004, eq. 6 to 8."""
    x = [[float(p == c) for c in range(classes)] for p in predictions]
    y = [[float(label == c) for c in range(classes)] for label in labels]

    def covariance(a: list[list[float]], b: list[list[float]]) -> float:
        total = 0.0
        for c in range(classes):
            mean_a = sum(row[c] for row in a) / len(a)
            mean_b = sum(row[c] for row in b) / len(b)
            total += sum((i[c] - mean_a) * (j[c] - mean_b) for i, j in zip(a, b, strict=True))
        return total

    spread = covariance(x, x) * covariance(y, y)
    return 0.0 if spread <= 1e-12 else covariance(x, y) / math.sqrt(spread)


rows = st.integers(2, 5).flatmap(
    lambda classes: st.tuples(
        st.just(classes),
        st.lists(
            st.tuples(st.integers(0, classes - 1), st.integers(0, classes - 1)),
            min_size=1,
            max_size=30,
        ),
    )
)


@settings(max_examples=200)
@given(rows)
def test_every_metric_equals_its_slow_twin(drawn: tuple[int, list[tuple[int, int]]]) -> None:
    classes, pairs = drawn
    predictions = [p for p, _ in pairs]
    labels = [y for _, y in pairs]
    scores = all_scores(_logits(np.array(predictions), classes), np.array(labels))
    right = sum(p == y for p, y in pairs)
    assert scores["accuracy"] == pytest.approx(right / len(pairs))
    assert scores["f1"] == pytest.approx(_slow_f1(predictions, labels, classes))
    assert scores["matthews"] == pytest.approx(_slow_matthews(predictions, labels, classes))


def test_known_values() -> None:
    # 90 true negatives, 4 false positives, 1 false negative, 5 true positives.
    labels = np.array([0] * 94 + [1] * 6)
    predictions = np.array([0] * 90 + [1] * 4 + [0] + [1] * 5)
    logits = _logits(predictions, 2)
    assert score("accuracy", logits, labels) == pytest.approx(0.95)
    assert score("f1", logits, labels) == pytest.approx(2 * 5 / (2 * 5 + 4 + 1))
    expected = (5 * 90 - 4 * 1) / math.sqrt((5 + 4) * (5 + 1) * (90 + 4) * (90 + 1))
    assert score("matthews", logits, labels) == pytest.approx(expected)


def test_perfect_and_inverted_predictions_are_the_ends_of_the_scale() -> None:
    labels = np.array([0, 1, 1, 0, 1])
    assert all_scores(_logits(labels, 2), labels) == {"accuracy": 1, "f1": 1, "matthews": 1}
    turned = all_scores(_logits(1 - labels, 2), labels)
    assert turned == {"accuracy": 0, "f1": 0, "matthews": -1}


def test_one_class_alone_has_no_correlation_and_no_f1() -> None:
    labels = np.zeros(4, dtype=int)
    assert all_scores(_logits(labels, 2), labels) == {"accuracy": 1, "f1": 0, "matthews": 0}


def test_macro_f1_leaves_out_classes_that_do_not_occur() -> None:
    labels = np.array([0, 1, 0, 1])
    predictions = np.array([0, 1, 1, 1])
    both = (2 / 3 + 4 / 5) / 2
    assert score("f1", _logits(predictions, 7), labels) == pytest.approx(both)
    # With two classes it is the F1 of class 1.
    assert score("f1", _logits(predictions, 2), labels) == pytest.approx(4 / 5)


def test_the_interval_of_accuracy_is_wilsons() -> None:
    labels = np.array([0, 1] * 50)
    predictions = labels.copy()
    predictions[:8] = 1 - predictions[:8]
    assert interval("accuracy", _logits(predictions, 2), labels) == wilson(92, 100)


@pytest.mark.parametrize("name", ["f1", "matthews"])
@pytest.mark.parametrize("classes", [2, 6])
def test_the_bootstrap_agrees_with_resampling_the_rows(name: str, classes: int) -> None:
    random = np.random.default_rng(3)
    labels = random.integers(0, classes, 300)
    predictions = np.where(random.random(300) < 0.8, labels, random.integers(0, classes, 300))
    logits = _logits(predictions, classes)
    found = interval(name, logits, labels)
    values = []
    for _ in range(1500):
        chosen = random.integers(0, 300, 300)
        values.append(score(name, logits[chosen], labels[chosen]))
    expected = np.quantile(values, [0.025, 0.975])
    assert found == pytest.approx(tuple(expected), abs=0.012)
    assert found == interval(name, logits, labels)
    assert found is not None
    assert found[0] < score(name, logits, labels) < found[1]


def test_the_bootstrap_covers_the_truth_about_95_times_in_100() -> None:
    random = np.random.default_rng(5)

    def draw(count: int) -> tuple[np.ndarray, np.ndarray]:
        labels = random.integers(0, 2, count)
        return np.where(random.random(count) < 0.85, labels, 1 - labels), labels

    predictions, labels = draw(400_000)
    truth = score("matthews", _logits(predictions, 2), labels)
    inside = 0
    for _ in range(300):
        predictions, labels = draw(200)
        low, high = interval("matthews", _logits(predictions, 2), labels) or (1, 0)
        inside += low <= truth <= high
    assert 0.91 <= inside / 300 <= 0.98


@pytest.mark.parametrize("name", for_task("classify"))
def test_one_row_has_no_interval(name: str) -> None:
    assert interval(name, np.array([[1.0, 0.0]]), np.array([0])) is None


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_logits_that_are_not_finite_are_refused(bad: float) -> None:
    logits = np.array([[1.0, bad], [0.0, 1.0]])
    with pytest.raises(StepError, match="not all finite"):
        score("accuracy", logits, np.array([0, 1]))
    with pytest.raises(StepError, match="not all finite"):
        interval("f1", logits, np.array([0, 1]))


def test_float32_logits_and_int32_labels_will_do() -> None:
    labels = np.array([0, 2, 1, 2], dtype=np.int32)
    logits = _logits(labels, 3).astype(np.float32)
    assert all_scores(logits, labels) == {"accuracy": 1, "f1": 1, "matthews": 1}
    assert interval("f1", logits, labels) == (1, 1)


def test_the_recipe_knows_exactly_these_metrics() -> None:
    assert set(Recipe.model_fields["metric"].annotation.__args__) == {"auto", *METRICS}


def test_every_task_of_the_recipe_has_metrics_and_knows_its_default() -> None:
    assert {task: resolve("auto", task) for task in DataTask.__args__} == {
        "causal_lm": "loss",
        "classify": "accuracy",
        "embed": "spearman",
        "mask_lm": "loss",
        "multi_label": "micro_f1",
        "qa": "answer_f1",
        "regress": "pearson",
        "tag": "entity_f1",
    }
    assert for_task("regress") == ("pearson", "spearman", "mse")


def test_a_metric_of_another_task_is_refused_with_those_that_fit() -> None:
    with pytest.raises(UsageError) as caught:
        resolve("accuracy", "regress")
    assert str(caught.value) == (
        "metric accuracy does not fit the task regress, expected one of pearson, spearman, mse "
        "(leave metric to auto for pearson)"
    )
    with pytest.raises(UsageError, match="the task encode has no metric"):
        resolve("auto", "encode")


def test_tags_that_are_no_spans_have_no_entities() -> None:
    parts_of_speech = ("NOUN", "VERB")
    assert resolve("auto", "tag", parts_of_speech) == "token_accuracy"
    assert resolve("auto", "tag", ("O", "B-x", "I-x")) == "entity_f1"
    with pytest.raises(UsageError, match=r"entity_f1 needs BIO tags .* found the tag 'NOUN'"):
        resolve("entity_f1", "tag", parts_of_speech)


def test_lower_is_better_for_what_counts_errors() -> None:
    assert {name for name in METRICS if sign(name) < 0} == {"loss", "mse", "perplexity"}
    assert better("pearson", 0.8, 0.7)
    assert not better("pearson", 0.7, 0.7)
    assert better("perplexity", 20.0, 21.0)
    assert not better("mse", 0.3, 0.2)
    assert better("loss", 9.0, None)
