from collections.abc import Mapping
from pathlib import Path

import pytest

from toolchain.data.labels import Listed, listed_in, reconcile
from toolchain.errors import UsageError

NEG_POS = {0: "negative", 1: "positive"}
GENERIC = {0: "LABEL_0", 1: "LABEL_1"}


def _listed(*names: str) -> Listed:
    return Listed(names, "labels.txt")


@pytest.mark.parametrize(
    ("found", "listed", "teacher", "names", "codes", "named"),
    [
        # No teacher, no list.
        (["b", "a"], None, None, ("a", "b"), {"a": 0, "b": 1}, True),
        (["1", "0", "2"], None, None, ("0", "1", "2"), {"0": 0, "2": 2, "02": 2}, False),
        # A list: its line number is the id.
        (["b", "a"], _listed("b", "a"), None, ("b", "a"), {"a": 1, "b": 0}, True),
        (["0", "1"], _listed("b", "a"), None, ("b", "a"), {"0": 0, "1": 1}, True),
        (["0", "1"], _listed("0", "1", "2"), None, ("0", "1", "2"), {"2": 2}, False),
        (["1", "2"], _listed("1", "2"), None, ("1", "2"), {"1": 0, "2": 1}, True),
        # A teacher with names.
        (["0", "1"], None, NEG_POS, ("negative", "positive"), {"1": 1}, True),
        (["0", "1"], _listed("0", "1"), NEG_POS, ("negative", "positive"), {"1": 1}, True),
        (["0"], _listed("0", "1"), NEG_POS, ("negative", "positive"), {"0": 0}, True),
        (["positive"], None, NEG_POS, ("negative", "positive"), {"positive": 1}, True),
        (["POSITIVE"], None, NEG_POS, ("negative", "positive"), {"POSITIVE": 1}, True),
        # The teacher's order wins over the list's; integers of the data follow the list.
        (["b"], _listed("b", "a"), {0: "a", 1: "b"}, ("a", "b"), {"a": 0, "b": 1}, True),
        (["0", "1"], _listed("B", "A"), {0: "a", 1: "b"}, ("a", "b"), {"0": 1, "1": 0}, True),
        # A teacher without names.
        (["0", "1"], None, GENERIC, ("LABEL_0", "LABEL_1"), {"1": 1}, False),
        (["b", "a"], _listed("b", "a"), GENERIC, ("b", "a"), {"b": 0, "a": 1}, True),
        (["0", "1"], _listed("b", "a"), GENERIC, ("b", "a"), {"0": 0, "1": 1}, True),
        (["0", "1"], _listed("0", "1"), GENERIC, ("LABEL_0", "LABEL_1"), {"0": 0}, False),
        (["LABEL_1"], None, GENERIC, ("LABEL_0", "LABEL_1"), {"LABEL_1": 1}, False),
        # A teacher whose names are other integers.
        (["1", "2"], None, {0: "1", 1: "2"}, ("1", "2"), {"1": 0, "2": 1}, True),
    ],
)
def test_labels_mean_what_their_source_says(
    found: list[str],
    listed: Listed | None,
    teacher: Mapping[int, str] | None,
    names: tuple[str, ...],
    codes: Mapping[str, int],
    named: bool,
) -> None:
    classes = reconcile(found, listed, teacher, where="train.tsv")
    assert classes.names == names
    assert {label: classes.code(label) for label in codes} == codes
    assert classes.named is named


def test_case_does_not_matter_unless_two_classes_differ_only_by_it() -> None:
    classes = reconcile(["us", "US", "in"], None, None, where="train.tsv")
    assert classes.code("IN") == classes.code("in")
    assert classes.code("us") != classes.code("US")
    assert classes.code("Us") is None


def test_an_order_that_the_teacher_overrules_is_noted() -> None:
    classes = reconcile(["a"], _listed("b", "a"), {0: "a", 1: "b"}, where="train.tsv")
    assert classes.notes == ("labels.txt has another order than the teacher, whose ids are used",)


@pytest.mark.parametrize(
    ("found", "listed", "teacher", "message"),
    [
        (
            ["0", "1"],
            _listed("a", "b", "c"),
            NEG_POS,
            "the 3 classes of labels.txt (a, b, c) and the 2 of the teacher (negative, positive) "
            "cannot be reconciled",
        ),
        (
            ["a", "b"],
            _listed("a", "b"),
            NEG_POS,
            "the 2 classes of labels.txt (a, b) and the 2 of the teacher (negative, positive)",
        ),
        (["0", "1"], _listed("a", "b"), NEG_POS, "cannot be reconciled"),
        (
            ["a", "b"],
            None,
            GENERIC,
            "the 2 classes of train.tsv (a, b) and the 2 of the teacher (LABEL_0, LABEL_1) cannot "
            "be reconciled (list the classes in labels.txt",
        ),
        (
            ["0", "1"],
            None,
            {0: "a", 1: "b", 2: "c"},
            "the 2 classes of train.tsv (0, 1) and the 3 of the teacher (a, b, c) cannot be "
            "reconciled (if the data lacks some classes on purpose, list all 3",
        ),
        (["0"], None, {0: "a", 2: "b"}, "the teacher's id2label has the ids 0, 2, expected 0 to 1"),
        (["0"], None, {0: "a", 1: "a"}, "the teacher's id2label names a class twice: a, a"),
        (["1", "2"], None, None, "train.tsv: the class ids are 1, 2, expected 0 to 1 without a"),
        (["-1", "0", "1"], None, None, "train.tsv: the class ids are -1, 0, 1, expected 0 to 2"),
        (["0", "1", "x"], None, None, "train.tsv: the labels mix class ids and names: 0, 1, x"),
        (
            ["0.5", "3.25"],
            None,
            None,
            "train.tsv: the labels are fractions (0.5, 3.25), expected class ids",
        ),
    ],
)
def test_what_cannot_be_reconciled_is_refused_with_both_sets(
    found: list[str], listed: Listed | None, teacher: Mapping[int, str] | None, message: str
) -> None:
    with pytest.raises(UsageError) as caught:
        reconcile(found, listed, teacher, where="train.tsv")
    assert message in str(caught.value)


def test_many_classes_are_shortened_in_a_message() -> None:
    classes = reconcile([f"c{i:03}" for i in range(150)], None, None, where="train.tsv")
    message = str(classes.unknown("dev.tsv:7", "c0"))
    assert "c011, ... 150 in all" in message
    assert len(message) < 250


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("a\n\nb\n", "labels.txt:2: a blank line, expected the name of a class"),
        ("a\nb\na\n", "labels.txt:3: class 'a' is named twice"),
        ("a\n", "labels.txt: only one class ('a'), expected at least two"),
        ("", "labels.txt: the file is empty"),
    ],
)
def test_a_bad_list_of_labels_is_refused(tmp_path: Path, content: str, message: str) -> None:
    path = tmp_path / "labels.txt"
    path.write_text(content)
    with pytest.raises(UsageError) as caught:
        listed_in(path)
    assert message in str(caught.value)
