"""Multi-label, regression, tagging and language-model data: what is read, what is refused."""

import gzip
import json
from collections.abc import Callable
from pathlib import Path

import pytest

from toolchain.data.sources import TaskData, load_task
from toolchain.errors import UsageError
from toolchain.recipe import Columns, DataTask

Put = Callable[[str, str | bytes], Path]
Load = Callable[..., TaskData]


def lines(*rows: object) -> str:
    return "".join(json.dumps(row) + "\n" for row in rows)


def both(put: Put, content: str, name: str = "jsonl") -> None:
    put(f"train.{name}", content)
    put(f"dev.{name}", content)


def test_lists_of_labels_become_zeros_and_ones(put: Put, load: Load) -> None:
    both(put, lines({"text": "a", "labels": ["y", "x"]}, {"text": "b", "labels": []}))
    task = load()
    assert (task.task, task.labels, task.named) == ("multi_label", ("x", "y"), True)
    assert task.train.labels == ((1, 1), (0, 0))
    put("labels.txt", "y\nz\nx\n")
    task = load()
    assert task.labels == ("y", "z", "x")
    assert task.train.labels == ((1, 0, 1), (0, 0, 0))
    assert any("no row of train has 1 of 3 labels: z" in note for note in task.notes)
    assert load(teacher={0: "x", 1: "y", 2: "z"}).train.labels[0] == (1, 1, 0)


def test_columns_of_zero_and_one_are_labels_in_their_order(put: Put, load: Load) -> None:
    both(put, "text\trude\tkind\none\t0\t1\ntwo\t1\t0\n", "tsv")
    task = load()
    assert (task.task, task.labels) == ("multi_label", ("rude", "kind"))
    assert task.train.labels == ((0, 1), (1, 0))


def test_scores_are_read_as_numbers(put: Put, load: Load) -> None:
    both(put, "text_a\ttext_b\tscore\na\tb\t3.800\nc\td\t0\n", "tsv")
    task = load()
    assert (task.task, task.kind, task.labels) == ("regress", "pair", ("score",))
    assert task.train.labels == (3.8, 0.0)
    assert load(teacher={0: "LABEL_0"}) == task
    put("labels.txt", "not\nread\n")
    assert load().labels == ("score",)


def test_a_teacher_of_classes_is_refused_for_scores(put: Put, load: Load) -> None:
    both(put, "text\tscore\na\t3.8\nb\t0\n", "tsv")
    with pytest.raises(UsageError, match="score is a score, but the teacher decides between 2"):
        load(teacher={0: "no", 1: "yes"})


def test_integers_are_classes_unless_regression_is_asked_for(put: Put, load: Load) -> None:
    both(put, "text\tlabel\na\t0\nb\t1\n", "tsv")
    assert load().task == "classify"
    task = load(task="regress")
    assert (task.task, task.train.labels) == ("regress", (0.0, 1.0))


def test_texts_to_embed_stand_one_by_one_with_the_scores_of_their_pairs(
    put: Put, load: Load
) -> None:
    both(put, "text_a\ttext_b\trelatedness\na\tb\t3.8\nc\td\t0\n", "tsv")
    task = load(task="embed")
    assert (task.task, task.kind, task.labels) == ("embed", "single", ())
    assert (task.train.texts, task.train.texts_b) == (("a", "c", "b", "d"), None)
    assert task.train.labels == (3.8, 0.0)
    assert load(task="embed", teacher={0: "no", 1: "yes"}) == task
    both(put, "text\tlabel\nx\tyes\ny\tyes\n", "tsv")
    task = load(task="embed")
    assert (task.train.texts, task.train.labels) == (("x", "y"), ())


def test_texts_to_embed_may_be_raw(put: Put, load: Load) -> None:
    put("train.txt", "one\ntwo\n")
    put("dev.txt", "three\n")
    task = load(task="embed")
    assert (task.train.texts, task.dev.texts) == (("one", "two"), ("three",))


def test_what_scores_one_text_says_not_how_alike_two_are(put: Put, load: Load) -> None:
    both(put, "text\tscore\na\t3.8\nb\t0\n", "tsv")
    assert load(task="embed").train.labels == ()
    with pytest.raises(UsageError, match="a row is one text") as caught:
        load(task="embed", score="score")
    assert "data.columns.text_b" in caught.value.hint
    both(put, "text_a\ttext_b\tscore\na\tb\thigh\n", "tsv")
    with pytest.raises(
        UsageError, match=r"train\.tsv:2: score is 'high', expected a finite number"
    ):
        load(task="embed")


def test_words_carry_tags_and_tags_txt_orders_them(put: Put, load: Load) -> None:
    row = {"tokens": ["New", "York", "!"], "tags": ["B-place", "I-place", "O"]}
    both(put, lines(row))
    task = load()
    assert (task.task, task.kind, task.labels) == ("tag", "single", ("O", "B-place", "I-place"))
    assert task.train.words == (("New", "York", "!"),)
    assert task.train.texts == ("New York !",)
    assert task.train.labels == ((1, 2, 0),)
    path = put("tags.txt", "I-place\nB-place\nO\n")
    task = load()
    assert task.train.labels == ((1, 0, 2),)
    assert task.files[-1] == path


def test_tags_that_train_lacks_are_counted_as_errors_and_noted(put: Put, load: Load) -> None:
    put("train.jsonl", lines({"tokens": ["a", "b"], "tags": ["O", "B-x"]}))
    put("dev.jsonl", lines({"tokens": ["c", "d"], "tags": ["B-new", "B-x"]}))
    task = load()
    assert (task.labels, task.unseen) == (("O", "B-x"), ("B-new",))
    assert task.dev.labels == ((2, 1),)
    assert any("1 tags of dev or test are none of train's" in note for note in task.notes)
    put("tags.txt", "O\nB-new\n")
    with pytest.raises(UsageError, match=r"train.jsonl:1: unknown label 'B-x', expected one of O"):
        load()


def test_a_folder_with_both_forms_of_rows_gives_the_one_that_is_asked_for(
    folder: Path, put: Put, load: Load
) -> None:
    both(put, lines({"tokens": ["a"], "tags": ["O"], "intent": "pos"}))
    assert load().task == "classify"
    assert load(task="tag").task == "tag"
    assert load(task="tag").train.file == str(folder / "train.jsonl")


def test_prompts_have_answers_and_may_have_more_input(put: Put, load: Load) -> None:
    both(
        put,
        lines(
            {"instruction": "Add.", "input": "1 2", "output": "3"},
            {"instruction": "Sing.", "input": "", "output": "La."},
        ),
    )
    task = load()
    assert (task.task, task.kind, task.labels) == ("causal_lm", "pair", ())
    assert task.train.texts == ("Add.\n1 2", "Sing.")
    assert task.train.texts_b == ("3", "La.")
    assert task.train.labels == ()


def test_raw_text_holds_out_a_part_by_the_hash_of_each_line(put: Put, load: Load) -> None:
    path = put("all.txt", "".join(f"line number {i}\n\n" for i in range(500)))
    task = load(path)
    assert (task.task, task.kind, task.labels, task.name) == ("causal_lm", "single", (), "all")
    assert len(task.train) + len(task.dev) == 500
    assert 30 < len(task.dev) < 70
    assert load(path, task="mask_lm").train == task.train
    assert load(path, task="mask_lm").digest != task.digest


def test_a_folder_of_text_has_dev_and_test_by_name(put: Put, load: Load) -> None:
    put("b.txt", "two\n")
    put("a.txt.gz", gzip.compress(b"one\n"))
    put("dev.txt", "three\n")
    put("test.txt", "four\n")
    task = load()
    assert (task.train.texts, task.dev.texts) == (("one", "two"), ("three",))
    assert task.test is not None
    assert task.test.texts == ("four",)
    assert [path.name for path in task.files] == ["a.txt.gz", "b.txt", "dev.txt", "test.txt"]


def test_the_text_of_a_labelled_set_trains_a_language_model(folder: Path, load: Load) -> None:
    task = load(task="mask_lm")
    assert (task.task, task.labels, task.train.labels) == ("mask_lm", (), ())
    assert task.train.texts == ("good film", "bad film")
    assert folder.is_dir()


BAD: list[tuple[DataTask, str, str]] = [
    ("multi_label", lines({"text": "a", "labels": ["x", "x"]}), "1: labels names the label 'x' tw"),
    ("multi_label", lines({"text": "a", "labels": "x"}), "1: labels is text, expected a list of l"),
    ("multi_label", lines({"text": "a", "labels": [""]}), "1: labels holds an empty text among it"),
    ("multi_label", lines({"text": "a", "labels": [None]}), "1: labels holds missing (null), expe"),
    ("multi_label", lines({"text": "a", "labels": ["z"]}), "1: unknown label 'z', expected one of"),
    ("regress", lines({"text": "a", "score": "high"}), "1: score is 'high', expected a finite num"),
    ("regress", lines({"text": "a", "score": None}), "1: score is missing (null), expected a fini"),
    ("regress", '{"text": "a", "score": NaN}\n', "1: score is nan, expected a finite number"),
    ("regress", lines({"text": "a", "score": "inf"}), "1: score is 'inf', expected a finite numb"),
    ("regress", lines({"text": "a", "score": True}), "1: score is a boolean, expected a finite n"),
    ("tag", lines({"tokens": ["a"], "tags": []}), "1: 1 tokens but 0 tags, expected one for each"),
    ("tag", lines({"tokens": [], "tags": []}), "1: tokens is an empty list, expected words"),
    ("tag", lines({"tokens": "a b", "tags": ["O"]}), "1: tokens is text, expected a list of words"),
    ("tag", lines({"tokens": [7], "tags": ["O"]}), "1: tokens holds a number, expected a list of"),
    ("tag", lines({"tokens": [" "], "tags": ["O"]}), "1: tokens holds an empty text among its wo"),
    ("tag", lines({"tokens": ["\ud800"], "tags": ["O"]}), "1: tokens holds half of a surrogate"),
    ("causal_lm", lines({"prompt": "a", "answer": ""}), "1: answer is empty, expected text"),
    ("causal_lm", lines({"prompt": 1, "answer": "b"}), "1: prompt is a number, expected text"),
]
GOOD: dict[DataTask, str] = {
    "multi_label": lines({"text": "a", "labels": ["x"]}, {"text": "b", "labels": ["y"]}),
    "regress": lines({"text": "a", "score": 1.5}, {"text": "b", "score": 2}),
    "tag": lines({"tokens": ["a", "b"], "tags": ["O", "B-x"]}),
    "causal_lm": lines({"prompt": "a", "answer": "b"}),
}


@pytest.mark.parametrize(("task", "content", "message"), BAD, ids=[c[2][:40] for c in BAD])
def test_bad_values_are_named_by_file_and_line(
    put: Put, load: Load, task: DataTask, content: str, message: str
) -> None:
    put("train.jsonl", GOOD[task])
    put("dev.jsonl", content)
    with pytest.raises(UsageError) as caught:
        load()
    assert f"dev.jsonl:{message}" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_flag_that_is_neither_zero_nor_one_is_named(put: Put, load: Load) -> None:
    put("train.tsv", "text\tx\ty\na\t0\t1\nb\t1\t0\n")
    put("dev.tsv", "text\tx\ty\na\t0\t1\nb\t1\t2\n")
    with pytest.raises(UsageError, match=r"dev.tsv:3: y is '2', expected 0 or 1"):
        load()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (lines(*[{"text": t, "labels": []} for t in "ab"]), "no row of train has any label"),
        (lines(*[{"text": t, "labels": ["x"]} for t in "ab"]), "every row of train has the same l"),
        (lines(*[{"text": t, "score": 2.0} for t in "ab"]), "every row of train has 2.0, expected"),
    ],
)
def test_a_train_split_that_teaches_nothing_is_refused(
    put: Put, load: Load, content: str, message: str
) -> None:
    both(put, content)
    with pytest.raises(UsageError) as caught:
        load()
    assert message in str(caught.value)


@pytest.mark.shared
@pytest.mark.parametrize(
    ("name", "asked", "task", "kind", "rows", "outputs"),
    [
        ("stsb", "auto", "regress", "pair", (5749, 1500, 1379), 1),
        ("sick", "auto", "classify", "pair", (4500, 500, 4927), 3),
        ("sick", "regress", "regress", "pair", (4500, 500, 4927), 1),
        ("wnut17", "auto", "tag", "single", (3394, 1009, 1287), 13),
        ("snips", "auto", "classify", "single", (13084, 700, 700), 7),
        ("snips", "tag", "tag", "single", (13084, 700, 700), 72),
        ("atis", "tag", "tag", "single", (4478, 500, 893), 120),
        ("instruct", "auto", "causal_lm", "pair", (5060, 325, 0), 0),
        ("sst2", "mask_lm", "mask_lm", "single", (67349, 872, 1821), 0),
    ],
)
def test_real_sets_of_every_task_load_with_their_counts(
    shared: Path,
    name: str,
    asked: DataTask,
    task: str,
    kind: str,
    rows: tuple[int, int, int],
    outputs: int,
) -> None:
    folder = shared / "data" / name
    found = load_task(str(folder), columns=Columns(), teacher_labels=None, task=asked)
    assert (found.task, found.kind, len(found.labels)) == (task, kind, outputs)
    assert (len(found.train), len(found.dev), len(found.test or ())) == rows
    if task == "tag":
        assert found.labels == tuple((folder / "tags.txt").read_text().split())
        assert found.labels[0] == "O"


@pytest.mark.shared
def test_real_scores_lie_on_their_scales(shared: Path) -> None:
    for name, low, high in (("stsb", 0, 5), ("sick", 1, 5)):
        task = load_task(
            str(shared / "data" / name), columns=Columns(), teacher_labels=None, task="regress"
        )
        scores = [label for label in task.train.labels if isinstance(label, float)]
        assert (min(scores), max(scores)) == (low, high)


@pytest.mark.shared
def test_real_raw_text_loads_whole(shared: Path) -> None:
    folder = shared / "data" / "general_text"
    task = load_task(str(folder), columns=Columns(), teacher_labels=None)
    assert (task.task, task.kind, task.labels) == ("causal_lm", "single", ())
    # README.md: about 4.9 million words.
    words = sum(len(text.split()) for split in (task.train, task.dev) for text in split.texts)
    assert words == pytest.approx(4.9e6, rel=0.02)
    assert 900 < len(task.dev) < 1400
