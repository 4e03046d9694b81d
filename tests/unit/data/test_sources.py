import gzip
import shutil
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from toolchain.data.sources import TaskData, load_raw, load_task
from toolchain.errors import UsageError
from toolchain.recipe import Columns

Put = Callable[[str, str | bytes], Path]
Load = Callable[..., TaskData]


def _refused(load: Load, **options: object) -> str:
    with pytest.raises(UsageError) as caught:
        load(**options)
    message = str(caught.value)
    assert "\n" not in message
    return message


def test_a_folder_gives_its_splits_and_classes(folder: Path, put: Put, load: Load) -> None:
    put("test.tsv", "text\tlabel\nodd film\tneg\n")
    task = load()
    assert (task.name, task.kind, task.labels, task.named) == (
        "data",
        "single",
        ("neg", "pos"),
        True,
    )
    assert task.train.texts == ("good film", "bad film")
    assert task.train.labels == (1, 0)
    assert task.dev.texts_b is None
    assert len(task.dev) == 2
    assert task.test is not None
    assert task.test.labels == (0,)
    assert [path.name for path in task.files] == ["train.tsv", "dev.tsv", "test.tsv"]
    assert task.train.file == str(folder / "train.tsv")
    assert task.notes == ()


@pytest.mark.parametrize("name", ["dev", "validation", "valid", "val"])
def test_dev_goes_by_many_names(folder: Path, load: Load, name: str) -> None:
    (folder / "dev.tsv").rename(folder / f"{name}.tsv")
    assert len(load().dev) == 2


def test_pairs_have_two_texts(put: Put, load: Load) -> None:
    rows = "sentence1\tsentence2\tlabel\na\tb\t1\nc\td\t0\n"
    put("train.tsv", rows)
    put("dev.tsv", rows)
    task = load()
    assert (task.kind, task.labels, task.named) == ("pair", ("0", "1"), False)
    assert (task.train.texts, task.train.texts_b) == (("a", "c"), ("b", "d"))
    assert task.notes == ("2 of 2 rows of dev also occur in train",)


def test_the_formats_may_differ_between_splits(folder: Path, put: Put, load: Load) -> None:
    (folder / "train.tsv").unlink()
    put(
        "train.jsonl.gz", gzip.compress(b'{"text":"a","label":"pos"}\n{"text":"b","label":"neg"}\n')
    )
    assert load().train.labels == (1, 0)


def test_integers_in_json_and_parquet_are_class_ids(put: Put, load: Load, tmp_path: Path) -> None:
    put("train.jsonl", '{"text": "a", "label": 1}\n{"text": "b", "label": 0}\n')
    path = tmp_path / "data" / "dev.parquet"
    pq.write_table(pa.table({"text": ["c", "d"], "label": [0, 1], "other": [[1.0], None]}), path)
    task = load()
    assert (task.train.labels, task.dev.labels, task.labels) == ((1, 0), (0, 1), ("0", "1"))


def test_labels_txt_beside_the_data_orders_the_classes(folder: Path, put: Put, load: Load) -> None:
    put("labels.txt", "pos\nneg\n")
    task = load()
    assert task.labels == ("pos", "neg")
    assert task.train.labels == (0, 1)
    assert task.files[-1] == folder / "labels.txt"


def test_the_order_of_the_teacher_wins(folder: Path, put: Put, load: Load) -> None:
    put("labels.txt", "pos\nneg\n")
    task = load(teacher={0: "Neg", 1: "Pos"})
    assert task.labels == ("Neg", "Pos")
    assert task.train.labels == (1, 0)
    assert task.notes == (
        f"{folder}/labels.txt has another order than the teacher, whose ids are used",
    )


def test_the_digest_follows_content_and_columns_alone(
    folder: Path, put: Put, load: Load, tmp_path: Path
) -> None:
    first = load().digest
    copy = tmp_path / "elsewhere"
    shutil.copytree(folder, copy)
    assert load(copy).digest == first
    content = (copy / "train.tsv").read_bytes()
    (copy / "train.tsv").unlink()
    (copy / "train.tsv.gz").write_bytes(gzip.compress(content))
    assert load(copy).digest == first
    put("dev.tsv", "text\tlabel\nfine film\tpos\nother film\tneg\n")
    assert load().digest != first
    wide = "text\ttitle\tlabel\na\tb\tpos\nc\td\tneg\n"
    put("train.tsv", wide)
    put("dev.tsv", wide)
    assert load(text="title").digest != load().digest


def test_one_file_holds_out_a_tenth_and_says_so(put: Put, load: Load) -> None:
    rows = [f"text number {i}\t{'ab'[i % 2]}" for i in range(2000)]
    path = put("all.tsv", "\n".join(["text\tlabel", *rows, rows[0], rows[1]]) + "\n")
    task = load(path)
    assert len(task.train) + len(task.dev) == 2002
    assert 150 < len(task.dev) < 250
    assert task.test is None
    assert task.name == "all"
    # Equal texts stay on one side.
    assert not set(task.train.texts) & set(task.dev.texts)
    assert any("no dev split, so" in note for note in task.notes)
    again = load(path)
    assert again == task


def test_a_class_that_only_the_held_out_rows_have_is_still_a_class(put: Put, load: Load) -> None:
    names = {f"row {i}": "ab"[i % 2] for i in range(40)}
    path = put("all.tsv", "text\tlabel\n" + "".join(f"{t}\t{n}\n" for t, n in names.items()))
    rare = load(path).dev.texts[0]
    names[rare] = "c"
    put("all.tsv", "text\tlabel\n" + "".join(f"{t}\t{n}\n" for t, n in names.items()))
    task = load(path)
    assert task.labels == ("a", "b", "c")
    assert any("no row of train has 1 of 3 classes: c" in note for note in task.notes)


def test_too_few_rows_to_hold_out_are_refused(put: Put, load: Load) -> None:
    path = put("all.tsv", "text\tlabel\na\tx\n")
    assert "all.tsv: too few rows (1) to hold out a dev split" in _refused(load, source=path)


def test_a_test_split_without_labels_is_left_out_and_noted(
    folder: Path, put: Put, load: Load
) -> None:
    put("test.tsv", "index\ttext\n0\tsomething\n")
    task = load()
    assert task.test is None
    assert task.notes == (f"{folder}/test.tsv has no column 'label', so it is left out",)
    put("test.tsv", "text\tlabel\na\t-1\nb\t-1\n")
    task = load()
    assert task.test is None
    assert "its labels are hidden (-1)" in task.notes[0]


def test_a_second_format_of_the_same_split_is_not_read_and_noted(
    folder: Path, put: Put, load: Load
) -> None:
    put("dev.jsonl", '{"tokens": ["a"], "tags": ["O"]}\n')
    assert load().notes == (f"{folder}/dev.jsonl is not read: dev.tsv is",)


def test_what_is_not_there_is_refused(load: Load, put: Put, tmp_path: Path) -> None:
    for source in (str(tmp_path / "no"), "no.tsv", "a b", "typo", "a" * 5000, "../x/y"):
        assert f"{source}: no such file or folder" in _refused(load, source=source)
    with pytest.raises(UsageError, match=": no such file or folder"):
        load_task("", columns=Columns(), teacher_labels=None)
    (tmp_path / "data").mkdir()
    assert "data: the folder holds no files" in _refused(load)
    put("readme.md", "x")
    formats = ".tsv, .csv, .jsonl, .json, .parquet"
    assert f"no train file, expected train with one of {formats}, found: readme" in _refused(load)
    put("train.tsv", "text\tlabel\na\tx\nb\ty\n")
    assert "no dev file, expected dev or validation or valid or val with one of" in _refused(load)


def test_two_files_for_one_split_are_refused(folder: Path, put: Put, load: Load) -> None:
    put("train.tsv.gz", gzip.compress((folder / "train.tsv").read_bytes()))
    assert "two train files, train.tsv and train.tsv.gz (keep one of them)" in _refused(load)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        (
            "train.tsv",
            "txt\tlabel\na\tx\n",
            "train.tsv:1: the header lacks a text column, found: txt",
        ),
        ("train.tsv", "text\tkind\na\t1.5\n", "train.tsv:1: the header lacks a label column"),
        ("train.tsv", "text\tlabel\na\tx\nb\n", "train.tsv:3: 1 field, expected 2 (text, label)"),
        ("train.tsv", "text\tlabel\na\tpos\n \tneg\n", "train.tsv:3: text is empty, expected text"),
        ("train.tsv", "text\tlabel\na\tpos\n\u3000\tneg\n", "train.tsv:3: text is empty"),
        (
            "train.tsv",
            "text\tlabel\na\tpos\nb\t\n",
            "train.tsv:3: label is empty, expected a class",
        ),
        (
            "train.tsv",
            "text\tlabel\na\tpos\nb\tpos\n",
            "train.tsv: every row of train has the class",
        ),
        ("train.tsv", "text\tlabel\na\t0.0\nb\t1.0\n", "the labels are fractions (0.0, 1.0)"),
        ("train.tsv", "", "train.tsv: the file is empty"),
        ("train.tsv.gz", "plain", "train.tsv.gz: not a whole gzip file"),
        (
            "dev.tsv",
            "text\tlabel\na\tpos\nb\tpositiv\n",
            "dev.tsv:3: unknown label 'positiv', expected one of neg, pos (from",
        ),
        (
            "dev.tsv",
            "text\ttarget\na\tpos\n",
            "dev.tsv:1: the header lacks 'label', found: text, targ",
        ),
        (
            "dev.jsonl",
            '{"text": 7, "label": "pos"}\n',
            "dev.jsonl:1: text is a number, expected text",
        ),
        ("dev.jsonl", '{"text": null, "label": "pos"}\n', "dev.jsonl:1: text is missing (null)"),
        (
            "dev.jsonl",
            '{"text": "a", "label": true}\n',
            "dev.jsonl:1: label is a boolean, expected a",
        ),
        (
            "dev.jsonl",
            '{"text": "a", "label": ["x"]}\n',
            "dev.jsonl:1: label is a list, expected a class id or a class name (where every",
        ),
        ("dev.jsonl", '{"text": "a", "label": 1.5}\n', "set data.task=regress)"),
        ("dev.jsonl", '{"text": "a", "label": {}}\n', "dev.jsonl:1: label is an object"),
        (
            "dev.jsonl",
            '{"text": "a\\ud800", "label": "pos"}\n',
            "dev.jsonl:1: text holds half of a",
        ),
        ("dev.csv", 'text,label\n"a\nb",pos\n"",neg\n', "dev.csv:4: text is empty"),
    ],
)
def test_bad_rows_are_named_by_file_and_line(
    folder: Path, put: Put, load: Load, name: str, content: str, message: str
) -> None:
    (folder / f"{name.split('.', maxsplit=1)[0]}.tsv").unlink()
    put(name, content)
    assert message in _refused(load)


def test_bad_values_in_parquet_are_named_by_row(folder: Path, load: Load) -> None:
    (folder / "dev.tsv").unlink()
    pq.write_table(pa.table({"text": ["a", None], "label": ["pos", "neg"]}), folder / "dev.parquet")
    assert "dev.parquet: row 2: text is missing (null), expected text" in _refused(load)


def test_ids_out_of_range_print_both_sides(put: Put, load: Load) -> None:
    put("train.tsv", "text\tlabel\na\t0\nb\t1\nc\t5\n")
    put("dev.tsv", "text\tlabel\nd\t0\n")
    message = _refused(load, teacher={0: "neg", 1: "pos"})
    assert "train.tsv:4: class id 5 is out of range, expected one of 0, 1" in message
    assert "the teacher (neg, pos)" in message
    assert "the data has 0, 1, 5" in message
    put("labels.txt", "neg\npos\n")
    message = _refused(load)
    assert "train.tsv:4: class id 5 is out of range" in message
    assert "labels.txt (neg, pos)" in message


def test_unknown_names_print_both_sides_and_the_nearest(put: Put, load: Load) -> None:
    put("train.tsv", "text\tlabel\na\tpos\nb\tneg\n")
    put("dev.tsv", "text\tlabel\nc\tpos\n")
    message = _refused(load, teacher={0: "positive", 1: "negative"})
    assert "train.tsv:2: unknown label 'pos', expected one of positive, negative" in message
    assert "(from the teacher); the data has neg, pos" in message
    assert "did you mean 'positive'?" in message


def test_raw_text_is_one_text_per_line(tmp_path: Path) -> None:
    (tmp_path / "b.txt").write_text("one\n\n  \ntwo\u2028half\n")
    (tmp_path / "a.txt.gz").write_bytes(gzip.compress(b"zero\n"))
    (tmp_path / "c.md").write_text("no\n")
    texts, digest = load_raw(str(tmp_path))
    assert texts == ("zero", "one", "two\u2028half")
    assert load_raw(str(tmp_path)) == (texts, digest)
    assert load_raw(str(tmp_path / "b.txt"))[0] == texts[1:]
    (tmp_path / "b.txt").write_text("other\n")
    assert load_raw(str(tmp_path))[1] != digest


def test_bad_raw_text_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no: no such file or folder"):
        load_raw(str(tmp_path / "no"))
    with pytest.raises(UsageError, match=r"no .txt or .txt.gz file, found: nothing"):
        load_raw(str(tmp_path))
    (tmp_path / "a.md").write_text("x")
    with pytest.raises(UsageError, match=r"a.md: expected raw text in a .txt"):
        load_raw(str(tmp_path / "a.md"))
    (tmp_path / "a.txt").write_text("\t\n\t\n")
    with pytest.raises(UsageError, match=r"no text, every line is blank"):
        load_raw(str(tmp_path / "a.txt"))
    (tmp_path / "a.txt").write_bytes(b"good\nb\xe9d\n")
    with pytest.raises(UsageError, match=r"a.txt:2: byte 0xe9 is not valid UTF-8"):
        load_raw(str(tmp_path / "a.txt"))


@pytest.mark.shared
@pytest.mark.parametrize(
    ("name", "kind", "rows", "classes"),
    [
        ("sst2", "single", (67349, 872, 1821), 2),
        ("trec6", "single", (4880, 572, 500), 6),
        ("mrpc", "pair", (3668, 408, 1725), 2),
        ("rte", "pair", (2490, 277, 0), 2),
        ("banking77", "single", (8992, 1011, 3080), 77),
        ("snips", "single", (13084, 700, 700), 7),
        ("clinc150", "single", (15000, 3000, 4500), 150),
        ("sick", "pair", (4500, 500, 4927), 3),
        ("cola", "single", (8551, 1043, 0), 2),
    ],
)
def test_real_sets_load_with_their_counts(
    shared: Path, name: str, kind: str, rows: tuple[int, int, int], classes: int
) -> None:
    folder = shared / "data" / name
    task = load_task(str(folder), columns=Columns(), teacher_labels=None)
    assert task.kind == kind
    assert (len(task.train), len(task.dev), len(task.test or ())) == rows
    assert len(task.labels) == classes
    assert task.labels == tuple((folder / "labels.txt").read_text().split())
    assert task.named is (task.labels != ("0", "1"))


@pytest.mark.shared
def test_an_intent_that_train_lacks_is_refused_in_a_real_set(shared: Path) -> None:
    with pytest.raises(UsageError, match=r"dev.tsv:419: unknown label 'atis_airfare#atis_fl"):
        load_task(str(shared / "data" / "atis"), columns=Columns(), teacher_labels=None)


@pytest.mark.shared
def test_a_set_of_67_thousand_rows_loads_whole(shared: Path) -> None:
    task = load_task(str(shared / "data" / "sst2"), columns=Columns(), teacher_labels=None)
    assert len(task.train.texts) == 67_349
