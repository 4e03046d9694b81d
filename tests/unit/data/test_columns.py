import pytest

from toolchain.data.columns import Chosen, choose
from toolchain.data.readers import Table
from toolchain.errors import UsageError
from toolchain.recipe import Columns


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
        (("text_a", "text_b", "score"), "column score without a label column: regression is not"),
        (("tokens", "tags"), "columns tokens and tags without a label column: tagging is not"),
        (("tokens", "ner_tags", "id"), "tagging is not supported yet"),
        (("question", "context", "answers"), "extractive question answering is not supported yet"),
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
        str(caught.value) == f"f.tsv:1: the header has no column 'sumary', which columns.{role} "
        "names, found: text, summary, label (did you mean 'summary'?)"
    )


def test_one_column_cannot_be_text_and_label() -> None:
    with pytest.raises(UsageError, match="one column cannot be two things: label, label"):
        choose(_table("text", "label"), Columns(text="label"))
