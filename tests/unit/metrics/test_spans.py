"""Entities worked out by hand, by the definition of conlleval and of seqeval (default mode)."""

import numpy as np
import pytest

from toolchain.errors import StepError
from toolchain.metrics import TagLogits, all_scores, interval, score
from toolchain.metrics.spans import entities, not_bio


@pytest.mark.parametrize(
    ("tags", "found"),
    [
        ("", set()),
        ("O O", set()),
        ("B-x", {("x", 0, 0)}),
        ("O B-x I-x O", {("x", 1, 2)}),
        ("B-x B-x I-x", {("x", 0, 0), ("x", 1, 2)}),
        ("B-x I-y", {("x", 0, 0), ("y", 1, 1)}),
        ("B-x I-x I-y I-y B-y", {("x", 0, 1), ("y", 2, 3), ("y", 4, 4)}),
        # Lenient, as conlleval: an I- without its B- opens an entity.
        ("I-x I-x O I-y", {("x", 0, 1), ("y", 3, 3)}),
        ("O I-x B-x", {("x", 1, 1), ("x", 2, 2)}),
        ("B-person-name I-person-name", {("person-name", 0, 1)}),
    ],
)
def test_entities_are_those_of_conll(tags: str, found: set[tuple[str, int, int]]) -> None:
    assert entities(tags.split()) == found


def test_names_that_are_no_bio_tags_are_found() -> None:
    assert not_bio(["O", "B-x", "I-x", "B-a-b"]) is None
    for name in ("NOUN", "B-", "E-x", "o", "B"):
        assert not_bio(["O", name]) == name


NAMES = ("O", "B-x", "I-x", "B-y", "I-y")


def tagged(*rows: tuple[str, str], model: int = len(NAMES)) -> tuple[TagLogits, np.ndarray]:
    """Rows of (gold, predicted) tags as outputs and labels; the model knows the first tags."""
    gold = [NAMES.index(tag) for row, _ in rows for tag in row.split()]
    predicted = [NAMES.index(tag) for _, row in rows for tag in row.split()]
    starts = np.cumsum([0, *(len(row.split()) for row, _ in rows)])
    logits = np.eye(model, dtype=np.float32)[predicted]
    return TagLogits(logits=logits, starts=starts, names=NAMES), np.array(gold)


def test_only_an_entity_with_type_and_both_ends_right_counts() -> None:
    outputs, labels = tagged(
        ("B-x I-x O B-y", "B-x I-x O B-y"),  # two right
        ("B-x I-x O", "B-x O O"),  # too short
        ("B-x O O", "B-y O O"),  # another type
        ("O B-y", "O I-y"),  # right, by the lenient reading
        ("O O O", "O B-x O"),  # one too many
    )
    # 3 hits; 5 true entities (2 + 1 + 1 + 1 + 0), 6 predicted (2 + 1 + 1 + 1 + 1).
    assert score("entity_f1", outputs, labels) == pytest.approx(2 * 3 / (5 + 6))
    assert score("token_accuracy", outputs, labels) == pytest.approx((4 + 2 + 2 + 1 + 2) / 15)
    assert set(all_scores(outputs, labels)) == {"entity_f1", "token_accuracy"}


def test_entities_never_cross_the_border_of_a_row() -> None:
    outputs, labels = tagged(("O B-x", "O B-x"), ("I-x O", "I-x O"))
    assert score("entity_f1", outputs, labels) == 1
    joined, same = tagged(("O B-x I-x O", "O B-x I-x O"))
    broken = TagLogits(logits=joined.logits, starts=outputs.starts, names=NAMES)
    assert len(entities([NAMES[i] for i in same])) == 1
    assert score("entity_f1", broken, same) == 1


def test_a_gold_tag_that_the_model_lacks_counts_as_an_error() -> None:
    outputs, labels = tagged(("B-x B-y", "B-x B-x"), model=3)
    assert outputs.logits.shape == (2, 3)
    assert score("entity_f1", outputs, labels) == pytest.approx(2 * 1 / (2 + 2))
    assert score("token_accuracy", outputs, labels) == 0.5


def test_no_entities_anywhere_are_worth_nothing() -> None:
    outputs, labels = tagged(("O O", "O O"))
    assert all_scores(outputs, labels) == {"entity_f1": 0, "token_accuracy": 1}


def test_the_interval_resamples_sentences() -> None:
    right, wrong = ("B-x O O", "B-x O O"), ("B-x O O", "O B-x O")
    outputs, labels = tagged(*[right] * 80, *[wrong] * 20)
    low, high = interval("entity_f1", outputs, labels) or (0, 0)
    # The F1 is a proportion here: 0.8 with a standard error of 0.04.
    assert (low, high) == pytest.approx((0.72, 0.88), abs=0.015)
    assert interval("entity_f1", *tagged(right)) is None


def test_tag_logits_that_are_not_finite_are_refused() -> None:
    outputs, labels = tagged(("B-x O", "B-x O"))
    outputs.logits[0, 0] = np.nan
    for name in ("entity_f1", "token_accuracy"):
        with pytest.raises(StepError, match="not all finite"):
            score(name, outputs, labels)


def test_tags_of_no_spans_have_an_accuracy_alone() -> None:
    outputs = TagLogits(
        logits=np.eye(2, dtype=np.float32), starts=np.array([0, 2]), names=("NOUN", "VERB")
    )
    assert all_scores(outputs, np.array([0, 1])) == {"token_accuracy": 1}
