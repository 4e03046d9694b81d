"""Embeddings are judged by scores of pairs, or by another model's similarities."""

import numpy as np
import pytest

from toolchain.errors import StepError
from toolchain.metrics import Embeddings, all_scores, interval, is_finite, score

GENERATOR = np.random.default_rng(0)
VECTORS = GENERATOR.normal(size=(12, 5)).astype(np.float32)


def of(vectors) -> Embeddings:
    return Embeddings(vectors=np.asarray(vectors, dtype=np.float32))


def cosine(a, b) -> float:
    return float(np.dot(a, b) / np.linalg.norm(a) / np.linalg.norm(b))


def ranked(a, b) -> float:
    """Spearman's correlation of values that are all different."""
    first, second = (np.argsort(np.argsort(x)) for x in (a, b))
    return float(np.corrcoef(first, second)[0, 1])


def test_a_pair_is_its_first_half_and_its_second() -> None:
    gold = GENERATOR.uniform(size=6).astype(np.float32)
    cosines = [cosine(VECTORS[i], VECTORS[i + 6]) for i in range(6)]
    expected = ranked(cosines, gold)
    assert score("spearman", of(VECTORS), gold) == pytest.approx(expected)
    assert list(all_scores(of(VECTORS), gold)) == ["spearman"]
    low, high = interval("spearman", of(VECTORS), gold)
    assert low <= expected <= high


def test_without_scores_the_similarities_of_another_model_are_the_measure() -> None:
    other = GENERATOR.normal(size=(12, 8)).astype(np.float32)
    pairs = [(i, (i - step) % 12) for step in range(1, 5) for i in range(12)]
    ours, theirs = ([cosine(v[i], v[j]) for i, j in pairs] for v in (VECTORS, other))
    expected = ranked(ours, theirs)
    assert score("spearman", of(VECTORS), other) == pytest.approx(expected)
    assert list(all_scores(of(VECTORS), other)) == ["spearman"]


def test_turned_and_stretched_spaces_have_the_same_similarities() -> None:
    turn, _ = np.linalg.qr(GENERATOR.normal(size=(5, 5)))
    turned = 3 * VECTORS @ turn.astype(np.float32)
    assert score("spearman", of(turned), VECTORS) == pytest.approx(1)
    found = all_scores(of(turned), VECTORS)
    assert found["cosine"] < 0.9
    assert all_scores(of(2 * VECTORS), VECTORS) == pytest.approx({"spearman": 1, "cosine": 1})


def test_the_mean_cosine_has_an_interval_around_it() -> None:
    noisy = VECTORS + GENERATOR.normal(size=VECTORS.shape)
    value = score("cosine", of(noisy), VECTORS)
    expected = np.mean([cosine(a, b) for a, b in zip(noisy, VECTORS, strict=True)])
    assert value == pytest.approx(expected, abs=1e-6)
    low, high = interval("cosine", of(noisy), VECTORS)
    assert low < value < high


def test_few_texts_have_few_pairs_and_one_has_none() -> None:
    assert score("spearman", of(VECTORS[:3]), VECTORS[:3]) == pytest.approx(1)
    assert score("spearman", of(VECTORS[:1]), VECTORS[:1]) == 0
    assert interval("spearman", of(VECTORS[:1]), VECTORS[:1]) is None


def test_a_zero_vector_is_like_nothing_and_no_number_is_refused() -> None:
    zeros = np.zeros_like(VECTORS)
    assert score("spearman", of(zeros), VECTORS) == 0
    assert score("cosine", of(zeros), VECTORS) == 0
    broken = VECTORS.copy()
    broken[3, 1] = np.nan
    assert not is_finite(of(broken))
    assert is_finite(of(VECTORS))
    with pytest.raises(StepError, match="not all finite"):
        score("cosine", of(broken), VECTORS)
