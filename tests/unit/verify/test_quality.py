"""The task metric, related to the teacher's."""

import numpy as np
import pytest

from toolchain.metrics import TokenSums
from toolchain.verify.quality import measure

LABELS = np.array([0, 1, 1, 0, 1, 0, 0, 1])
RIGHT = np.array([[1.0, -1.0] if label == 0 else [-1.0, 1.0] for label in LABELS])


def test_a_metric_bears_its_split_rows_interval_and_companions() -> None:
    wrong_twice = RIGHT.copy()
    wrong_twice[:2] *= -1
    metric = measure("accuracy", wrong_twice, LABELS, split="dev", teacher=None)
    assert (metric.name, metric.split, metric.rows) == ("accuracy", "dev", 8)
    assert metric.value == 6 / 8
    assert metric.ci95 is not None
    assert metric.ci95[0] < 6 / 8 < metric.ci95[1]
    assert "accuracy" not in metric.others
    assert metric.kept is None


@pytest.mark.parametrize("name", ["accuracy", "f1", "matthews"])
def test_right_answers_score_one_in_every_metric(name: str) -> None:
    metric = measure(name, RIGHT, LABELS, split="test", teacher=0.8)
    assert metric.value == pytest.approx(1)
    assert metric.kept == pytest.approx(1 / 0.8)


@pytest.mark.parametrize("teacher", [0.0, -0.1, None])
def test_nothing_is_kept_of_a_teacher_that_knows_nothing(teacher: float | None) -> None:
    assert measure("matthews", RIGHT, LABELS, split="dev", teacher=teacher).kept is None


def test_less_of_an_error_keeps_more_of_the_teacher() -> None:
    labels = np.array([0.0, 1.0, 2.0, 3.0])
    metric = measure("mse", (labels + 0.5)[:, None], labels, split="dev", teacher=0.2)
    assert metric.value == pytest.approx(0.25)
    assert metric.kept == pytest.approx(0.2 / 0.25)
    assert metric.others == {"pearson": pytest.approx(1), "spearman": pytest.approx(1)}
    perfect = measure("mse", labels[:, None], labels, split="dev", teacher=0.2)
    assert (perfect.value, perfect.kept) == (0, None)


def test_sets_of_labels_and_language_models_are_measured_alike() -> None:
    gold = np.eye(4, 3, dtype=np.float32)
    sets = measure("micro_f1", gold * 2 - 1, gold, split="dev", teacher=0.5)
    assert (sets.value, sets.kept, sets.rows) == (1, 2, 4)
    assert set(sets.others) == {"macro_f1", "subset_accuracy"}
    sums = TokenSums(nll=np.array([2.0, 4.0]), right=np.array([1, 1]), tokens=np.array([2, 4]))
    language = measure("loss", sums, None, split="dev", teacher=0.5)
    assert (language.value, language.kept, language.rows) == (1, 0.5, 2)
    assert set(language.others) == {"perplexity", "token_accuracy"}
