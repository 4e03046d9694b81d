"""`toolchain cache`, and students distilled from what it wrote, through the command line."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from transformers import BertConfig, BertForMaskedLM

from tests.conftest import make_teacher, sentences
from tests.integration.test_two_tokenizers import write_student
from tests.unit.scale.lab import plan_of, small_task
from toolchain.__main__ import main
from toolchain.artifact import Artifact
from toolchain.progress import Null
from toolchain.rundir import RunFolder, StepLog
from toolchain.steps import training
from toolchain.teaching import Teaching

SHORT = ["--max-steps", "3", "train.batch_size=16", "train.precision=fp32", "threads=1"]


def do(*words: object) -> int:
    return main([str(word) for word in words])


@pytest.fixture(scope="module")
def task(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return small_task(tmp_path_factory.mktemp("task"))


@pytest.fixture(scope="module")
def student(tmp_path_factory: pytest.TempPathFactory, teacher_folder: Path, task: Path) -> Path:
    folder = tmp_path_factory.mktemp("student") / "made"
    ends = ["--teacher", teacher_folder, "--data", task]
    assert do("design", *ends, "--layers", 2, "-o", folder) == 0
    return folder


def losses(folder: Path) -> list[float]:
    stages = Artifact.open(folder).facts["stages"]
    return [point["loss"] for stage in stages for point in stage["points"]]


def test_a_student_distilled_from_disk_is_the_one_distilled_beside_its_teacher(
    teacher_folder: Path,
    student: Path,
    task: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    ends = ["--teacher", teacher_folder, "--student", student, "--data", task]
    ends += ["--method", "tinybert+kd"]
    exact = ["train.precision=fp32", "placement.states=fp32", "threads=1"]
    capsys.readouterr()
    assert do("cache", *ends, "-o", tmp_path / "cache", "--json", *exact) == 0
    said = capsys.readouterr()
    assert "bytes a token" in said.err
    (made,) = json.loads(said.out)["teachers"]
    assert made["rows"] == made["added"] == 48
    assert set(made["keeps"]) == {
        "emb", "hidden.2", "hidden.4", "logits", "scores.2", "scores.4",
    }  # fmt: skip
    assert do("distill", *ends, *SHORT, "-o", tmp_path / "online") == 0
    with monkeypatch.context() as patched:
        # No weights of a teacher are loaded: only the student's folder is.
        loading = training.load_model
        asked = []

        def watched(folder: Path, *args: object, **more: object) -> object:
            asked.append(folder)
            return loading(folder, *args, **more)

        patched.setattr("toolchain.steps.training.load_model", watched)
        read = ["--cache", tmp_path / "cache"]
        assert do("distill", *ends, *SHORT, *read, "-o", tmp_path / "offline") == 0
        assert asked == [student]
    assert losses(tmp_path / "offline") == pytest.approx(losses(tmp_path / "online"), rel=1e-5)


def test_the_steps_of_a_run_know_the_cache_they_read(
    teacher_folder: Path, task: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    second = make_teacher(tmp_path / "second", head=True, seed=3)
    ends = ["--teacher", teacher_folder, "--data", task, "--method", "mt_bert", "--layers", "2"]
    assert do("cache", *ends, "-o", tmp_path / "cache", f"teachers=[{second}]") == 0
    said = capsys.readouterr().out
    assert "teacher: 48 rows" in said
    assert "teacher-2: 48 rows" in said
    placement = {"teacher": "cached", "cache": str(tmp_path / "cache")}
    plan = plan_of(teacher_folder, task, "mt_bert", teachers=[str(second)], placement=placement)
    assert sum("is read from" in reason for reason in plan.reasons) == 2
    log = StepLog(RunFolder(tmp_path / "out"), Null())
    teaching = Teaching(plan, log)
    teaching.design()
    teaching.distill()
    inputs = log.done["distilled"].inputs
    digests = [inputs[f"{name}-cache"] for name in ("teacher", "teacher-2")]
    assert digests == [cache.digest for cache in plan.caches]
    assert len(set(digests)) == 2


def test_a_damaged_shard_ends_with_4_and_what_is_missing_with_2(
    teacher_folder: Path,
    student: Path,
    task: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    ends = ["--teacher", teacher_folder, "--student", student, "--method", "kd"]
    cache = tmp_path / "cache"
    assert do("cache", *ends, "--data", task, "-o", cache, "threads=1") == 0
    (shard,) = (cache / "teacher").glob("*.safetensors")
    whole = shard.read_bytes()
    shard.write_bytes(whole[:-1] + bytes([whole[-1] ^ 4]))
    capsys.readouterr()
    read = [*ends, *SHORT, "--cache", cache]
    assert do("distill", *read, "--data", task, "-o", tmp_path / "a") == 4
    assert shard.name in capsys.readouterr().err
    assert do("cache", *ends, "--data", task, "-o", cache, "threads=1") == 0
    assert "made anew" in capsys.readouterr().err
    larger = small_task(tmp_path / "larger", rows=60)
    assert do("distill", *read, "--data", larger, "-o", tmp_path / "b") == 2
    assert "it lacks" in capsys.readouterr().err
    assert not (tmp_path / "b").exists()
    words = [*ends, "--data", task, "-o", cache, "placement.teacher=cached"]
    assert do("cache", *words) == 2
    assert "this command makes the cache" in capsys.readouterr().err


def test_copies_and_raw_text_are_rows_like_any_other(
    teacher_folder: Path,
    student: Path,
    task: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    speller = make_teacher(tmp_path / "speller", head=False)
    torch.manual_seed(0)
    BertForMaskedLM(BertConfig.from_pretrained(speller)).save_pretrained(speller)
    raw = tmp_path / "raw.txt"
    raw.write_text("\n".join(text for text, _ in sentences(20, seed=9)) + "\n")
    ends = ["--teacher", teacher_folder, "--student", student, "--data", task]
    ends += ["--method", "tinybert", f"data.raw={raw}", "data.augment.copies=1"]
    ends += [f"data.augment.model={speller}"]
    capsys.readouterr()
    assert do("cache", *ends, "-o", tmp_path / "cache", "--json", "threads=1") == 0
    (made,) = json.loads(capsys.readouterr().out)["teachers"]
    assert 48 + 20 < made["rows"] <= 2 * 48 + 20
    read = ["--cache", tmp_path / "cache"]
    assert do("distill", *ends, *SHORT, *read, "-o", tmp_path / "out") == 0
    stages = Artifact.open(tmp_path / "out").facts["stages"]
    assert [stage["stage"] for stage in stages] == ["general", "inter", "pred"]


def test_a_teacher_with_tokens_of_its_own_is_read_in_these(
    teacher_folder: Path, task: Path, tmp_path: Path
) -> None:
    ends = ["--teacher", teacher_folder, "--student", write_student(tmp_path / "student")]
    ends += ["--data", task, "--method", "uld"]
    assert do("cache", *ends, "-o", tmp_path / "cache", *SHORT[2:]) == 0
    assert do("distill", *ends, *SHORT, "-o", tmp_path / "online") == 0
    read = ["--cache", tmp_path / "cache"]
    assert do("distill", *ends, *SHORT, *read, "-o", tmp_path / "offline") == 0
    assert losses(tmp_path / "offline") == pytest.approx(losses(tmp_path / "online"), rel=1e-5)


def test_a_streamed_teacher_teaches_what_one_beside_the_student_does(
    teacher_folder: Path, student: Path, task: Path, tmp_path: Path
) -> None:
    ends = ["--teacher", teacher_folder, "--student", student, "--data", task]
    ends += ["--method", "tinybert+kd", "placement.states=fp32"]
    assert do("distill", *ends, *SHORT, "-o", tmp_path / "online") == 0
    streamed = "placement.teacher=streamed"
    assert do("distill", *ends, *SHORT, streamed, "-o", tmp_path / "streamed") == 0
    assert losses(tmp_path / "streamed") == pytest.approx(losses(tmp_path / "online"), rel=1e-5)


def test_streaming_and_running_fill_the_same_cache(
    teacher_folder: Path, student: Path, task: Path, tmp_path: Path
) -> None:
    ends = ["--teacher", teacher_folder, "--student", student, "--data", task]
    ends += ["--method", "kd", "train.precision=fp32", "threads=1"]
    for name, more in (("whole", []), ("streamed", ["placement.teacher=streamed"])):
        assert do("cache", *ends, *more, "-o", tmp_path / name) == 0
    # The second finds every row there, whoever read it.
    assert do("cache", *ends, "placement.teacher=streamed", "-o", tmp_path / "whole") == 0
    shards = [sorted((tmp_path / name).rglob("*.safetensors")) for name in ("whole", "streamed")]
    assert len(shards[0]) == len(shards[1]) > 0
    # Beside the student the last block is computed for one token alone: equal but for rounding.
    for whole, block_by_block in zip(*shards, strict=True):
        one, other = load_file(whole), load_file(block_by_block)
        assert one.keys() == other.keys()
        for name, tensor in one.items():
            torch.testing.assert_close(other[name], tensor, rtol=1e-5, atol=1e-5)
