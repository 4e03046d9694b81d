"""A cache of a few rows in six shards, for tests of its folder."""

from pathlib import Path

import pytest

from tests.unit.scale.lab import FEW, filled, plan_of, small_task
from toolchain.scale import filling
from toolchain.scale.ledger import CacheFolder


@pytest.fixture(scope="module")
def task(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return small_task(tmp_path_factory.mktemp("task"), rows=24)


@pytest.fixture
def small_shards(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(filling, "SHARD_BYTES", 1)


@pytest.fixture
def folder(
    teacher_folder: Path,
    task: Path,
    tmp_path: Path,
    small_shards: None,  # noqa: ARG001
) -> CacheFolder:
    """A cache of six shards of four rows."""
    filled(plan_of(teacher_folder, task, "kd", **FEW), tmp_path / "cache")
    return CacheFolder(tmp_path / "cache" / "teacher")
