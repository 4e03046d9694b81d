"""Small data sets on disk, written the way users write them."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Literal

import pytest

from toolchain.data.sources import TaskData, load_task
from toolchain.recipe import Columns, DataTask

Put = Callable[[str, str | bytes], Path]
Load = Callable[..., TaskData]

TRAIN = "text\tlabel\ngood film\tpos\nbad film\tneg\n"
DEV = "text\tlabel\nfine film\tpos\npoor film\tneg\n"


@pytest.fixture
def put(tmp_path: Path) -> Put:
    """Write one file into the data folder."""

    def write(name: str, content: str | bytes) -> Path:
        path = tmp_path / "data" / name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(content.encode() if isinstance(content, str) else content)
        return path

    return write


@pytest.fixture
def load(tmp_path: Path) -> Load:
    """Load the data folder."""

    def load_it(
        source: Path | str | None = None,
        teacher: Mapping[int, str] | None = None,
        task: Literal["auto"] | DataTask = "auto",
        **columns: str,
    ) -> TaskData:
        return load_task(
            str(source or tmp_path / "data"),
            columns=Columns(**columns),
            teacher_labels=teacher,
            task=task,
        )

    return load_it


@pytest.fixture
def folder(put: Put) -> Path:
    """A good folder of two classes; tests then spoil a part of it."""
    put("train.tsv", TRAIN)
    return put("dev.tsv", DEV).parent
