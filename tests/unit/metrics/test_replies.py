"""Answers judged as SQuAD's official scripts do: their formula, and figures worked by hand."""

import re
import string
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from toolchain.errors import StepError
from toolchain.metrics import Replies, all_scores, interval, is_finite, score
from toolchain.metrics.replies import exact, normalised, overlap


def official_f1(prediction: str, truth: str) -> float:
    """evaluate-v2.0.py's compute_f1, in its own words."""

    def normalize(text: str) -> str:
        text = "".join(c for c in text.lower() if c not in set(string.punctuation))
        return " ".join(re.sub(re.compile(r"\b(a|an|the)\b", re.UNICODE), " ", text).split())

    gold, found = normalize(truth).split(), normalize(prediction).split()
    same = sum((Counter(gold) & Counter(found)).values())
    if len(gold) == 0 or len(found) == 0:
        return int(gold == found)
    if same == 0:
        return 0
    precision, recall = same / len(found), same / len(gold)
    return 2 * precision * recall / (precision + recall)


def test_articles_signs_cases_and_blanks_do_not_count() -> None:
    assert normalised("The  Eiffel-Tower, \n an 'A'!") == "eiffeltower"
    assert normalised("Theatre of Athens") == "theatre of athens"
    assert exact("the Broncos", "Broncos.") == 1
    assert exact("Denver Broncos", "Broncos") == 0


def test_figures_worked_by_hand() -> None:
    # One of two words found is the only right one: precision 1/2, recall 1.
    assert overlap("Denver Broncos", "The Broncos") == pytest.approx(2 / 3)
    assert overlap("a b b", "b b b c") == pytest.approx(2 * (2 / 2) * (2 / 4) / (2 / 2 + 2 / 4))
    assert overlap("gold", "silver") == 0
    assert (overlap("", ""), overlap("the", ""), overlap("", "yes")) == (1, 1, 0)


words = st.lists(st.sampled_from(["the", "A", "cat,", "sat", "Öl", "\u00a0", "on-", "!"]))


@given(words, words)
def test_the_official_formula_and_ours_are_one(found: list[str], right: list[str]) -> None:
    pair = " ".join(found), " ".join(right)
    assert overlap(*pair) == pytest.approx(official_f1(*pair))


def test_the_most_like_of_several_counts_and_giving_none_is_right_where_there_is_none() -> None:
    outputs = Replies(
        texts=("in Łódź", "", "8", ""),
        answers=(("Łódź", "in the Łódź"), (), (), ("um 8 Uhr", "the")),
    )
    assert score("exact_match", outputs, None) == 0.5
    assert all_scores(outputs, None) == {"answer_f1": 0.5, "exact_match": 0.5}
    low, high = interval("answer_f1", outputs, None) or (0, 0)
    assert 0 <= low <= 0.5 <= high <= 1


def test_figures_that_are_no_numbers_decide_nothing() -> None:
    outputs = Replies(texts=("a", "b"), answers=(("a",), ("b",)), finite=False)
    assert not is_finite(outputs)
    with pytest.raises(StepError, match="not all finite"):
        score("answer_f1", outputs, None)
