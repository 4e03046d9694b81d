"""Placements in pieces are refused in the plan where they cannot work."""

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.unit.models import zoo
from toolchain.errors import UsageError
from toolchain.plan import Plan, make_plan
from toolchain.recipe import load_recipe


def planned(teacher: Path, task: Path, *overrides: str) -> Plan:
    options = {"teacher": str(teacher), "data": {"path": str(task)}, "student": {"layers": 2}}
    return make_plan(load_recipe(None, options, ["threads=1", *overrides]), task / "out")


def refused(teacher: Path, task: Path, *overrides: str) -> str:
    with pytest.raises(UsageError) as refusal:
        planned(teacher, task, *overrides)
    return str(refusal.value)


@pytest.fixture(autouse=True)
def _able(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    pytest.importorskip("deepspeed", reason="the extra [deepspeed] is not installed")
    monkeypatch.setenv("TORCH_EXTENSIONS_DIR", str(tmp_path))


def test_what_can_be_sharded_is_planned(teacher_folder: Path, task_folder: Path) -> None:
    for student, teacher in (("zero1", "zero3"), ("zero3", "zero3"), ("offload", "offload")):
        wanted = [f"placement.student={student}", f"placement.teacher={teacher}"]
        assert planned(teacher_folder, task_folder, "method=kd", *wanted).stages


@pytest.mark.parametrize("method", ["theseus", "cofi", "dskd", "lrc_bert+dist"])
@pytest.mark.parametrize(
    ("student", "teacher"), [("zero3", "zero3"), ("zero2", "offload"), ("offload", "whole")]
)
def test_no_method_needs_whole_models(
    teacher_folder: Path, task_folder: Path, method: str, student: str, teacher: str
) -> None:
    wanted = [f"placement.student={student}", f"placement.teacher={teacher}", "student.layers=4"]
    plan = planned(teacher_folder, task_folder, f"method={method}", *wanted)
    assert (plan.placement.student, plan.placement.teacher) == (student, teacher)


def test_an_extra_that_is_missing_is_named(
    teacher_folder: Path, task_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "deepspeed", None)
    message = refused(teacher_folder, task_folder, "placement.student=zero1")
    assert "placement.student=zero1 needs DeepSpeed" in message
    assert "toolchain[deepspeed]" in message


def test_a_missing_compiler_is_named(
    teacher_folder: Path, task_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CXX", "no-such-compiler")
    monkeypatch.setattr("toolchain.hardware.has_cuda", lambda: False)
    message = refused(teacher_folder, task_folder, "placement.teacher=zero3")
    assert "no-such-compiler" in message
    assert "install g++" in message


def test_a_lock_that_nobody_holds_is_named_and_a_young_one_is_waited_for(
    teacher_folder: Path, task_folder: Path, tmp_path: Path
) -> None:
    lock = tmp_path / "deepspeed_shm_comm" / "lock"
    lock.parent.mkdir()
    lock.touch()
    assert planned(teacher_folder, task_folder, "placement.student=zero1").stages
    long_ago = time.time() - 3600
    os.utime(lock, (long_ago, long_ago))
    assert str(lock) in refused(teacher_folder, task_folder, "placement.student=zero1")
    with subprocess.Popen(["sleep", "60"], cwd=lock.parent) as builder:
        assert planned(teacher_folder, task_folder, "placement.student=zero1").stages
        builder.kill()


@pytest.mark.parametrize("placement", ["student=nvme", "teacher=nvme"])
def test_nvme_is_refused_with_the_reason_and_what_to_use(
    teacher_folder: Path, task_folder: Path, placement: str
) -> None:
    message = refused(teacher_folder, task_folder, f"placement.{placement}")
    assert "gave other losses on two processes than on one" in message
    assert "use offload (host memory) or zero3" in message


@pytest.mark.parametrize(
    "placement", ["whole", "zero3", "tensor_parallel", "offload", "streamed", "auto"]
)
def test_a_teacher_whose_shard_is_missing_is_refused_with_its_name(
    task_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, placement: str
) -> None:
    folder = tmp_path / "teacher"
    zoo.make("bert").save_pretrained(folder, max_shard_size="20KB")
    zoo.tokenizer().save_pretrained(folder)
    lost = sorted(folder.glob("*.safetensors"))[2]
    lost.unlink()
    monkeypatch.setenv("WORLD_SIZE", "2")
    message = refused(folder, task_folder, "method=kd", f"placement.teacher={placement}")
    assert f"shard '{lost.name}' is missing" in message
    assert "fetch the folder again" in message


def test_fp16_is_refused_with_what_to_use(teacher_folder: Path, task_folder: Path) -> None:
    message = refused(teacher_folder, task_folder, "train.precision=fp16")
    assert "train.precision" in message
    assert "use bf16 where the device has it, or fp32" in message


def test_bf16_is_refused_where_nothing_computes_in_it(
    teacher_folder: Path, task_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("toolchain.hardware.bf16_reason", lambda: None)
    message = refused(teacher_folder, task_folder, "train.precision=bf16")
    assert "neither the CPU nor a GPU here computes in it" in message


CUT = "placement.teacher=tensor_parallel"


def test_a_teacher_that_cannot_be_cut_is_refused(
    teacher_folder: Path,
    task_folder: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("WORLD_SIZE", "3")
    said = "it has 4 heads, and there are 3 processes"
    assert said in refused(teacher_folder, task_folder, CUT)
    monkeypatch.setenv("WORLD_SIZE", "2")
    for method in ("minilm_v2", "theseus"):
        plan = planned(teacher_folder, task_folder, f"method={method}", CUT)
        assert plan.placement.teacher == "tensor_parallel"


def test_an_old_transformers_cannot_cut(
    teacher_folder: Path, task_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setattr("toolchain.scale.requirements.version", lambda _: "5.17.0")
    assert "found 5.17.0" in refused(teacher_folder, task_folder, CUT)


def test_a_batch_must_have_a_row_for_every_process(
    teacher_folder: Path, task_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WORLD_SIZE", "8")
    message = refused(teacher_folder, task_folder, "train.batch_size=4")
    assert "batches of 4 rows for 8 processes" in message


def test_a_teacher_that_writes_with_the_student_must_run_beside_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    folder, task = zoo.save(zoo.make("llama", "causal_lm"), tmp_path / "llama"), tmp_path / "task"
    task.mkdir()
    for name in ("train", "dev"):
        (task / f"{name}.jsonl").write_text('{"prompt": "say a", "answer": "xxxx"}\n' * 8)
    read = ["placement.teacher=cached", f"placement.cache={tmp_path}"]
    assert "needs one that runs" in refused(folder, task, "method=minillm", *read)
    for place in (CUT, "placement.teacher=zero3", "placement.student=zero3"):
        assert planned(folder, task, "method=minillm", place).stages
    other = zoo.save(zoo.make("llama", "causal_lm"), tmp_path / "other")
    both = refused(folder, task, "method=minillm", f"teachers=[{other}]")
    assert "teacher_mixed works with one teacher, the recipe names 2" in both


@pytest.mark.parametrize("placement", ["teacher=zero1", "student=fp16"])
def test_placements_that_are_not_offered_are_unknown(
    teacher_folder: Path, task_folder: Path, placement: str
) -> None:
    assert "zero3" in refused(teacher_folder, task_folder, f"placement.{placement}")
