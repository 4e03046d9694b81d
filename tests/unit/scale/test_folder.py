"""A cache survives kills, full disks and damage, grows with the data, and knows what it is of."""

import errno
import json
import os
import re
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from tests.conftest import make_teacher
from tests.unit.scale.lab import FEW, cached, contents, filled, plan_of, rows_of
from toolchain.data.batching import collate
from toolchain.errors import IntegrityError, ResourceError, StepError, UsageError
from toolchain.progress import Null
from toolchain.scale.cached import CachedModel, check_holds
from toolchain.scale.ledger import CacheFolder, Identity

CPU = torch.device("cpu")

pytestmark = pytest.mark.usefixtures("small_shards")


def reading(folder: CacheFolder) -> dict:
    return {**FEW, "placement": {"teacher": "cached", "cache": str(folder.root.parent)}}


def test_every_shard_has_its_digest_and_the_rows_follow_each_other(folder: CacheFolder) -> None:
    shards = folder.shards()
    assert [(s.first, s.rows) for s in shards] == [(4 * i, 4) for i in range(6)]
    for shard in shards:
        folder.check(shard)
        assert shard.bytes == folder.path(shard).stat().st_size


def test_rows_that_are_new_are_added_and_others_found_in_any_order(
    folder: CacheFolder, teacher_folder: Path, task: Path, tmp_path: Path
) -> None:
    before = contents(folder)
    lines = (task / "train.tsv").read_text().splitlines()
    more = shutil.copytree(task, tmp_path / "more")
    new = ["please turn on the lamp\tlight", "play the radio my radio\tmusic"]
    # One row comes twice; it is kept once.
    rows = [*reversed(lines[1:]), *new, lines[1]]
    (more / "train.tsv").write_text("\n".join([lines[0], *rows]) + "\n")
    plan = plan_of(teacher_folder, more, "kd", **FEW)
    own, _ = rows_of(plan, teacher_folder)
    with pytest.raises(UsageError, match=r"lacks 2 of 27 rows \(rows 24, 25, counted from 0\)"):
        check_holds(folder.root, own)
    (done,) = filled(plan, folder.root.parent)
    assert (done.added, done.rows) == (2, 26)
    assert before.items() <= contents(folder).items()
    check_holds(folder.root, own)
    (again,) = filled(plan, folder.root.parent)
    assert again.added == 0


def damage(folder: CacheFolder, kind: str) -> Path:
    path = folder.path(folder.shards()[2])
    data = bytearray(path.read_bytes())
    if kind == "a flipped byte":
        data[-40] ^= 1
    path.write_bytes(data[:-9] if kind == "cut short" else bytes(data))
    if kind == "missing":
        path.unlink()
    return path


@pytest.mark.parametrize(
    ("kind", "sentence"),
    [
        ("a flipped byte", "is not the recorded"),
        ("cut short", "cut short or damaged: .* bytes, expected"),
        ("missing", "the shard is missing"),
    ],
)
def test_a_damaged_shard_is_named_and_made_anew_alone(
    kind: str, sentence: str, folder: CacheFolder, teacher_folder: Path, task: Path
) -> None:
    whole = contents(folder)
    path = damage(folder, kind)
    plan = plan_of(teacher_folder, task, "kd", **FEW)
    own, _ = rows_of(plan, teacher_folder)
    model = CachedModel(folder=folder.root, spec=plan.teacher_spec)
    for read in (
        lambda: check_holds(folder.root, own),
        lambda: model.open(frozenset(), device=CPU, bf16=False),
    ):
        with pytest.raises(IntegrityError, match=f"{path.name}: .*{sentence}") as caught:
            read()
        assert "makes that shard alone anew" in caught.value.hint
        assert caught.value.exit_code == 4
    (done,) = filled(plan, folder.root.parent)
    assert done.added == 4
    rebuilt = contents(folder)
    assert sorted(rebuilt.values()) == sorted(whole.values())
    check_holds(folder.root, own)


def test_a_full_disk_is_said_and_finished_shards_stay(
    teacher_folder: Path,
    task: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    plan = plan_of(teacher_folder, task, "kd", **FEW)
    sync, calls = os.fsync, []

    def full(handle: int) -> None:
        # The manifest, then a shard and its line, then the second shard.
        calls.append(handle)
        if len(calls) == 4:
            raise OSError(errno.ENOSPC, "No space left on device")
        sync(handle)

    with monkeypatch.context() as patched:
        patched.setattr(os, "fsync", full)
        with pytest.raises(ResourceError, match="the disk is full") as caught:
            filled(plan, tmp_path)
    assert caught.value.exit_code == 5
    folder = CacheFolder(tmp_path / "teacher")
    assert [shard.rows for shard in folder.shards()] == [4]
    assert not list(folder.root.glob(".*"))
    (done,) = filled(plan, tmp_path)
    assert done.added == 20


def test_a_disk_too_small_is_refused_before_weights_are_loaded(
    teacher_folder: Path, task: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = plan_of(teacher_folder, task, "kd", **FEW)
    usage = type(shutil.disk_usage(tmp_path))
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage(1 << 30, 1 << 30, 100))
    monkeypatch.setattr("toolchain.steps.cache.load_model", None)
    with pytest.raises(ResourceError, match="needs 288 bytes of disk, 100 are free"):
        filled(plan, tmp_path)


def other(identity: Identity, **changed: object) -> Identity:
    return replace(identity, **changed)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("field", "value", "sentence"),
    [
        ("teacher", "0" * 64, "teacher 000000000000, expected "),
        ("tokenizer", "1" * 64, "tokenizer 111111111111, expected "),
        ("task", "regress", "task regress, expected classify"),
        ("max_tokens", 32, "data.max_tokens 32, expected 64"),
    ],
)
def test_a_cache_of_something_else_is_refused_with_what_differs(
    field: str,
    value: object,
    sentence: str,
    folder: CacheFolder,
    teacher_folder: Path,
    task: Path,
) -> None:
    changed = other(folder.identity(), **{field: value})
    content = {**changed.as_json(), "digest": changed.digest}
    (folder.root / "cache.json").write_text(json.dumps(content))
    with pytest.raises(UsageError, match=re.escape(f"it is of {sentence}")) as caught:
        plan_of(teacher_folder, task, "kd", **reading(folder))
    assert "toolchain cache" in caught.value.hint
    with pytest.raises(UsageError, match=re.escape(sentence)):
        filled(plan_of(teacher_folder, task, "kd", **FEW), folder.root.parent)


def test_another_teacher_is_refused_though_its_shape_is_the_same(
    folder: CacheFolder, task: Path, tmp_path: Path
) -> None:
    teacher = make_teacher(tmp_path / "other", head=True, seed=8)
    with pytest.raises(UsageError, match="it is of teacher"):
        plan_of(teacher, task, "kd", **reading(folder))


def test_terms_that_read_more_than_is_kept_are_refused(
    folder: CacheFolder, teacher_folder: Path, task: Path
) -> None:
    with pytest.raises(UsageError, match="reads emb, hidden 2, hidden 4, attention scores 2") as e:
        plan_of(teacher_folder, task, "tinybert", **reading(folder))
    assert "it holds logits" in e.value.message
    # What is kept for more terms than are there is no obstacle.
    assert plan_of(teacher_folder, task, "dist", **reading(folder)).caches
    with pytest.raises(UsageError, match="begun for other terms"):
        filled(plan_of(teacher_folder, task, "tinybert", **FEW), folder.root.parent)


@pytest.mark.parametrize(
    ("content", "sentence"),
    [(None, "so no cache"), ("{", "not the manifest"), ('{"format": 9}', "another version")],
)
def test_a_folder_that_is_no_cache_is_refused(
    content: str | None, sentence: str, folder: CacheFolder, teacher_folder: Path, task: Path
) -> None:
    path = folder.root / "cache.json"
    path.unlink()
    if content is not None:
        path.write_text(content)
    with pytest.raises(UsageError, match=sentence):
        plan_of(teacher_folder, task, "kd", **reading(folder))


def test_a_manifest_with_a_changed_number_is_not_believed(
    folder: CacheFolder, teacher_folder: Path, task: Path
) -> None:
    path = folder.root / "cache.json"
    path.write_text(path.read_text().replace('"width": 3', '"width": 5'))
    with pytest.raises(IntegrityError, match=r"cache\.json: digest"):
        plan_of(teacher_folder, task, "kd", **reading(folder))


def test_a_batch_of_other_tokens_is_never_answered(
    folder: CacheFolder, teacher_folder: Path, task: Path
) -> None:
    plan = plan_of(teacher_folder, task, "kd", **reading(folder))
    (model,) = cached(plan)
    teacher = model.open(frozenset(), device=CPU, bf16=False)
    rows, _ = rows_of(plan, teacher_folder)
    batch = collate(rows, [3, 0])
    assert teacher.captures(batch, {}) is not None
    batch.inputs["input_ids"][1, 1] += 1
    with pytest.raises(StepError, match="it holds nothing of row 0"):
        teacher.captures(batch, {})


def test_placement_and_cache_are_named_together(
    folder: CacheFolder, teacher_folder: Path, task: Path
) -> None:
    for placement, sentence in (
        ({"teacher": "cached"}, "names no folder"),
        ({"cache": str(folder.root)}, "placement.teacher is auto"),
    ):
        with pytest.raises(UsageError, match=sentence):
            plan_of(teacher_folder, task, "kd", **FEW, placement=placement)


def test_a_reader_is_not_disturbed_by_a_writer(
    folder: CacheFolder, teacher_folder: Path, task: Path
) -> None:
    with folder.writing(Null().say):
        plan = plan_of(teacher_folder, task, "kd", **reading(folder))
        (model,) = cached(plan)
        teacher = model.open(frozenset(), device=CPU, bf16=False)
        folder.add(folder.path(folder.shards()[0]).read_bytes(), rows=4, tokens=1)
        rows, _ = rows_of(plan, teacher_folder)
        assert teacher.captures(collate(rows, [5]), {}) is not None
