"""Texts without labels: which files hold them, what is left out, what is refused."""

import gzip
from pathlib import Path

import pytest

from toolchain.data.sources import TaskData, load_task
from toolchain.data.unlabelled import Unlabelled, load_unlabelled
from toolchain.errors import UsageError
from toolchain.recipe import Columns

ROWS = {"train": ["a one\tx", "b two\ty"], "dev": ["c three\tx"], "test": ["d four\ty"]}


def task_at(folder: Path, header: str, rows: dict[str, list[str]]) -> TaskData:
    folder.mkdir()
    for name, lines in rows.items():
        (folder / f"{name}.tsv").write_text("\n".join([header, *lines]) + "\n")
    return load_task(str(folder), columns=Columns(), teacher_labels=None)


@pytest.fixture
def task(tmp_path: Path) -> TaskData:
    return task_at(tmp_path / "task", "text\tlabel", ROWS)


@pytest.fixture
def pairs(tmp_path: Path) -> TaskData:
    rows = {"train": ["a\tb\tx", "c\td\ty"], "dev": ["e\tf\tx"]}
    return task_at(tmp_path / "pairs", "text_a\ttext_b\tlabel", rows)


def read(source: Path, task: TaskData, columns: Columns | None = None) -> Unlabelled:
    return load_unlabelled(str(source), task, columns or Columns())


def test_what_the_task_knows_and_what_comes_twice_is_left_out(
    task: TaskData, tmp_path: Path
) -> None:
    path = tmp_path / "more.txt"
    lines = ["new one", "a one", "", "c three", "d four", "new two", "new one"]
    path.write_text("\n".join(lines) + "\n")
    found = read(path, task)
    assert found.texts == ("new one", "new two")
    assert found.texts_b is None
    assert (len(found), found.found) == (2, 6)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("more.txt", "new one\nnew two\n"),
        ("more.tsv", "text\nnew one\nnew two\n"),
        ("more.csv", 'label,text\nx,new one\n,"new two"\n'),
        ("more.jsonl", '{"text": "new one"}\n{"text": "new two"}\n'),
    ],
)
def test_every_kind_of_file_gives_the_same(
    name: str, content: str, task: TaskData, tmp_path: Path
) -> None:
    plain, packed = tmp_path / name, tmp_path / f"{name}.gz"
    plain.write_text(content)
    packed.write_bytes(gzip.compress(content.encode()))
    one, other = read(plain, task), read(packed, task)
    assert one.texts == other.texts == ("new one", "new two")
    assert one.digest == other.digest


def test_a_folder_of_texts_is_read_whole(task: TaskData, tmp_path: Path) -> None:
    (tmp_path / "logs").mkdir()
    for number in range(2):
        (tmp_path / "logs" / f"{number}.txt").write_text(f"day {number}\n")
    assert read(tmp_path / "logs", task).texts == ("day 0", "day 1")


def test_pairs_have_two_texts(pairs: TaskData, tmp_path: Path) -> None:
    path = tmp_path / "more.tsv"
    path.write_text("text_a\ttext_b\na\tb\na\tother\na\tother\n")
    found = read(path, pairs)
    assert (found.texts, found.texts_b) == (("a",), ("other",))


def test_columns_of_other_names_are_those_of_the_task(task: TaskData, tmp_path: Path) -> None:
    path = tmp_path / "more.tsv"
    path.write_text("said\tlabel\nnew one\tx\n")
    assert read(path, task, Columns(text="said", label="label")).texts == ("new one",)


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("more.txt", "a one\nc three\n", "every text of it is among those of task already"),
        ("more.txt", "\n \n", "the file is empty|every line is blank"),
        ("more.tsv", "text\n", "no rows"),
        ("more.tsv", "text\nnew\n \nlast\n", r"more.tsv:3: text is empty"),
        ("more.tsv", "title\nnew\n", "title"),
        ("more.doc", "new\n", "unknown format"),
        ("more.tsv", "text_a\ttext_b\nnew\tone\n", "its rows are pairs, those of task are one"),
    ],
)
def test_what_is_no_list_of_new_texts_is_refused(
    name: str, content: str, said: str, task: TaskData, tmp_path: Path
) -> None:
    (tmp_path / name).write_text(content)
    with pytest.raises(UsageError, match=said) as refusal:
        read(tmp_path / name, task)
    assert "\n" not in str(refusal.value)


def test_what_is_not_there_is_refused(task: TaskData, pairs: TaskData, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no such file or folder"):
        read(tmp_path / "none.txt", task)
    (tmp_path / "empty").mkdir()
    with pytest.raises(UsageError, match=r"no \.txt or \.txt\.gz file"):
        read(tmp_path / "empty", task)
    (tmp_path / "more.txt").write_text("one\n")
    with pytest.raises(UsageError, match="one text per line, but the rows of pairs are pairs"):
        read(tmp_path / "more.txt", pairs)
