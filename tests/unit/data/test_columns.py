import pytest

from toolchain.data.columns import Chosen, choose
from toolchain.data.readers import Table
from toolchain.errors import UsageError
from toolchain.recipe import Columns, DataTask


def _table(*header: str) -> Table:
    return Table(
        file="f.tsv",
        head="f.tsv:1: the header",
        header=header,
        places=[2],
        unit="line",
        digest=None,
        values=lambda column: [column],
    )


@pytest.mark.parametrize(
    ("header", "chosen"),
    [
        (("text", "label"), Chosen("text", None, "label")),
        (("label", "fine_label", "text"), Chosen("text", None, "label")),
        (("sentence", "label", "idx"), Chosen("sentence", None, "label")),
        (("Text", "Label"), Chosen("Text", None, "Label")),
        (("utterance", "intent"), Chosen("utterance", None, "intent")),
        (("text_a", "text_b", "label", "relatedness"), Chosen("text_a", "text_b", "label")),
        (("sentence1", "sentence2", "label"), Chosen("sentence1", "sentence2", "label")),
        (("id", "question1", "question2", "label"), Chosen("question1", "question2", "label")),
        (("text1", "text2", "is_duplicate"), Chosen("text1", "text2", "is_duplicate")),
        (("premise", "hypothesis", "label"), Chosen("premise", "hypothesis", "label")),
        (("question", "sentence", "label"), Chosen("question", "sentence", "label")),
    ],
)
def test_the_usual_names_are_found(header: tuple[str, ...], chosen: Chosen) -> None:
    assert choose(_table(*header), Columns()) == chosen


@pytest.mark.parametrize(
    ("header", "chosen"),
    [
        (("text_a", "text_b", "score"), Chosen("text_a", "text_b", "score", "regress")),
        (("sentence", "similarity"), Chosen("sentence", None, "similarity", "regress")),
        (("tokens", "tags"), Chosen("tokens", None, "tags", "tag")),
        (("id", "tokens", "ner_tags"), Chosen("tokens", None, "ner_tags", "tag")),
        (("tokens", "tags", "intent"), Chosen("tokens", None, "tags", "tag")),
        (("text", "tokens", "tags", "label"), Chosen("text", None, "label")),
        (("prompt", "completion"), Chosen("prompt", "completion", None, "causal_lm")),
        (
            ("instruction", "input", "output"),
            Chosen("instruction", "output", None, "causal_lm", (), "input"),
        ),
        (("text",), Chosen("text", None, None, "causal_lm")),
    ],
)
def test_the_columns_say_what_the_task_is(header: tuple[str, ...], chosen: Chosen) -> None:
    assert choose(_table(*header), Columns()) == chosen


def _filled(**columns: list[object]) -> Table:
    return Table(
        file="f.jsonl",
        head="f.jsonl:1: the first object",
        header=tuple(columns),
        places=[1, 2],
        unit="line",
        digest=None,
        values=lambda column: columns[column],
    )


@pytest.mark.parametrize(
    ("labels", "task"),
    [
        (["a", "b"], "classify"),
        ([0, 1], "classify"),
        (["3", "5"], "classify"),
        (["1.0", "2.0"], "classify"),
        (["3.5", "5.0"], "regress"),
        ([1, 2.5], "regress"),
        ([["a"], []], "multi_label"),
    ],
)
def test_the_values_of_a_label_say_what_the_task_is(labels: list[object], task: str) -> None:
    assert choose(_filled(text=["x", "y"], label=labels), Columns()).task == task


def test_columns_of_zero_and_one_are_labels_of_which_several_may_hold() -> None:
    table = _filled(id=[0, 1], text=["x", "y"], toxic=["0", "1"], rude=[1, 0], why=["", "no"])
    found = choose(table, Columns())
    assert found == Chosen("text", None, None, "multi_label", ("toxic", "rude"))
    assert found.names() == ("text", "toxic", "rude")
    with pytest.raises(UsageError, match="lacks a label column"):
        choose(_filled(text=["x", "y"], toxic=[0, 1]), Columns())
    assert choose(table, Columns(labels=["rude"])).flags == ("rude",)
    with pytest.raises(UsageError, match=r"no column 'rued', which data.columns.labels .*'rude'"):
        choose(table, Columns(labels=["rued"]))


def test_the_task_may_be_said_where_columns_leave_it_open() -> None:
    table = _table("text_a", "text_b", "label", "relatedness")
    assert choose(table, Columns(), "regress").label == "relatedness"
    assert choose(table, Columns(label="label"), "regress").label == "label"
    assert choose(table, Columns(score="label")) == Chosen("text_a", "text_b", "label", "regress")
    assert choose(table, Columns(), "mask_lm") == Chosen("text_a", "text_b", None, "mask_lm")
    assert choose(_table("text", "label"), Columns(), "causal_lm").names() == ("text",)


@pytest.mark.parametrize(
    ("task", "columns", "message"),
    [
        (
            "tag",
            {"label": "label"},
            "data.columns.label names 'label', but the task tag has no such",
        ),
        (
            "classify",
            {"score": "label"},
            "expected data.columns.text or data.columns.text_b or data.columns.label",
        ),
        ("mask_lm", {"label": "label"}, "but the task mask_lm has no such column"),
        ("tag", {}, "lacks a tokens column, found: text, label; expected one of: tokens, words"),
        ("causal_lm", {"answer": "label"}, "lacks a prompt column, found: text, label"),
    ],
)
def test_a_column_that_the_task_does_not_read_is_refused(
    task: DataTask, columns: dict[str, str], message: str
) -> None:
    with pytest.raises(UsageError) as caught:
        choose(_table("text", "label"), Columns(**columns), task)
    assert message in str(caught.value)


def test_names_that_are_given_win() -> None:
    table = _table("text", "title", "body", "label", "stars")
    columns = Columns(text="title", text_b="body", label="stars")
    assert choose(table, columns) == Chosen("title", "body", "stars")
    assert choose(table, Columns(label="stars")) == Chosen("text", None, "stars")
    assert choose(table, Columns(text_b="body")) == Chosen("text", "body", "label")


@pytest.mark.parametrize(
    ("header", "message"),
    [
        (("txt", "label"), "f.tsv:1: the header lacks a text column, found: txt, label; expected"),
        (("text", "target"), "f.tsv:1: the header lacks a label column, found: text, target"),
        (("text", "content", "label"), "leaves open which column holds the text: text or content"),
        (
            ("text", "premise", "hypothesis", "label"),
            "leaves open which column holds the text: premise + hypothesis or text",
        ),
        (("txt", "score"), "f.tsv:1: the header lacks a text column, found: txt, score"),
        (("context", "answers"), "f.tsv:1: the header lacks a label column, found: context"),
    ],
)
def test_a_header_that_will_not_do_is_refused(header: tuple[str, ...], message: str) -> None:
    with pytest.raises(UsageError) as caught:
        choose(_table(*header), Columns())
    assert message in str(caught.value)


@pytest.mark.parametrize("role", ["text", "text_b", "label"])
def test_a_given_name_that_is_not_there_suggests_the_nearest(role: str) -> None:
    table = _table("text", "summary", "label")
    with pytest.raises(UsageError) as caught:
        choose(table, Columns(**{role: "sumary"}))
    assert (
        str(caught.value)
        == f"f.tsv:1: the header has no column 'sumary', which data.columns.{role} "
        "names, found: text, summary, label (did you mean 'summary'?)"
    )


def test_one_column_cannot_be_text_and_label() -> None:
    with pytest.raises(UsageError, match="one column cannot be two things: label, label"):
        choose(_table("text", "label"), Columns(text="label"))
