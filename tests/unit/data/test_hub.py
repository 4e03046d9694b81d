import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from toolchain.data.hub import is_hub_id
from toolchain.data.sources import TaskData
from toolchain.errors import UsageError

datasets = pytest.importorskip("datasets")

Load = Callable[..., TaskData]


def _split(texts: list[str], labels: list[int]) -> "datasets.Dataset":
    features = datasets.Features(
        {"text": datasets.Value("string"), "label": datasets.ClassLabel(names=["neg", "pos"])}
    )
    return datasets.Dataset.from_dict({"text": texts, "label": labels}, features=features)


def test_a_saved_data_set_gives_its_splits_and_class_names(tmp_path: Path, load: Load) -> None:
    saved = datasets.DatasetDict(
        train=_split(["a", "b", "c"], [1, 0, 1]),
        validation=_split(["d", "e"], [0, 1]),
        test=_split(["f"], [-1]),
    )
    saved.save_to_disk(str(tmp_path / "saved"))
    task = load(tmp_path / "saved")
    assert (task.name, task.labels, task.named) == ("saved", ("neg", "pos"), True)
    assert (task.train.texts, task.train.labels) == (("a", "b", "c"), (1, 0, 1))
    assert task.dev.labels == (0, 1)
    assert task.test is None
    assert "its labels are hidden (-1)" in task.notes[0]
    assert tmp_path / "saved" / "dataset_dict.json" in task.files


def test_a_selection_of_rows_is_kept(tmp_path: Path, load: Load) -> None:
    many = _split([f"text {i}" for i in range(400)], [i % 2 for i in range(400)])
    chosen = many.select(range(0, 400, 3))
    chosen.save_to_disk(str(tmp_path / "saved"))
    task = load(tmp_path / "saved")
    assert {*task.train.texts, *task.dev.texts} == {f"text {i}" for i in range(0, 400, 3)}
    assert any("held out" in note for note in task.notes)


def test_the_digest_follows_the_rows(tmp_path: Path, load: Load) -> None:
    def digest(name: str, last: str) -> str:
        saved = datasets.DatasetDict(
            train=_split(["a", last], [1, 0]), validation=_split(["d", "e"], [0, 1])
        )
        saved.save_to_disk(str(tmp_path / name))
        return load(tmp_path / name).digest

    assert digest("one", "b") == digest("two", "b") != digest("three", "c")


def test_bad_rows_are_named_by_split_and_row(tmp_path: Path, load: Load) -> None:
    saved = datasets.DatasetDict(train=_split(["a", " "], [1, 0]), validation=_split(["d"], [0]))
    saved.save_to_disk(str(tmp_path / "saved"))
    with pytest.raises(UsageError, match=r"saved\[train\]: row 2: text is empty, expected text"):
        load(tmp_path / "saved")


def test_a_damaged_or_foreign_saved_set_is_refused(tmp_path: Path, load: Load) -> None:
    saved = tmp_path / "saved"
    datasets.DatasetDict(other=_split(["a"], [1])).save_to_disk(str(saved))
    with pytest.raises(UsageError, match="no train split, found: other"):
        load(saved)
    (saved / "dataset_dict.json").write_text("{")
    with pytest.raises(UsageError, match="saved: not a whole saved data set"):
        load(saved)


def test_without_the_extra_the_install_line_is_given(
    tmp_path: Path, load: Load, monkeypatch: pytest.MonkeyPatch
) -> None:
    _split(["a", "b"], [1, 0]).save_to_disk(str(tmp_path / "saved"))
    monkeypatch.setitem(sys.modules, "datasets", None)
    for source in ("owner/name", tmp_path / "saved"):
        with pytest.raises(UsageError) as caught:
            load(source)
        assert "needs the package datasets, which is not installed" in caught.value.message
        assert caught.value.hint == "pip install 'toolchain[hub]'"


def test_a_hub_id_has_an_owner_and_is_no_path(tmp_path: Path) -> None:
    assert is_hub_id("owner/name")
    assert is_hub_id("owner/name.v1:config")
    for other in ("name", "a/b/c", "/a/b", "../a", "a b/c", "", "a/"):
        assert not is_hub_id(other)
    (tmp_path / "here").mkdir()
    assert not is_hub_id(str(tmp_path / "here" / "name"))


def test_without_a_network_a_hub_id_is_refused_in_one_sentence(tmp_path: Path) -> None:
    script = (
        "from toolchain.data.sources import load_task\n"
        "from toolchain.errors import UsageError\n"
        "from toolchain.recipe import Columns\n"
        "try:\n"
        "    load_task('nobody/nothing:x', columns=Columns(), teacher_labels=None)\n"
        "except UsageError as error:\n"
        "    print(error.message)\n"
    )
    # In a process of its own, since the hub client reads these when it is imported.
    offline = {**os.environ, "HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1"}
    offline["HF_HOME"] = str(tmp_path)
    done = subprocess.run(
        [sys.executable, "-c", script], env=offline, capture_output=True, text=True, check=True
    )
    assert done.stdout.startswith(
        "nobody/nothing:x: no such file or folder, and the hub did not give it: "
    )
    assert done.stdout.count("\n") == 1
