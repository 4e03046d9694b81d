"""Whole runs with two teachers, with an assistant, and with bare teachers behind one head."""

import json
from pathlib import Path
from typing import Any

import pytest
from safetensors.numpy import load_file

from tests.conftest import make_teacher
from tests.integration.test_compress import arguments
from toolchain.__main__ import main
from toolchain.artifact import file_sha256
from toolchain.plan import make_plan
from toolchain.progress import Null, Progress
from toolchain.recipe import load_recipe
from toolchain.report.report import Report
from toolchain.rundir import RunFolder, StepLog
from toolchain.teaching import Teaching


@pytest.fixture(scope="module")
def second_encoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A shallower bare encoder with the same tokenizer and width."""
    return make_teacher(tmp_path_factory.mktemp("bare"), head=False, seed=3, num_hidden_layers=3)


def words(encoder: Path, data: Path, output: Path, *more: str) -> list[str]:
    quick = ["finetune.epochs=8", "train.epochs=4"]
    return [*arguments(encoder, data, output, "--no-baseline"), *quick, *more]


def ledger(output: Path) -> dict[str, dict[str, Any]]:
    return {s["name"]: s for s in json.loads((output / "run.json").read_text())["steps"]}


def report_of(output: Path) -> Report:
    return Report.from_json(json.loads((output / "report" / "report.json").read_text()))


def test_two_bare_teachers_are_joined_by_one_head_and_teach_together(
    encoder_folder: Path, second_encoder: Path, task_folder: Path, tmp_path: Path
) -> None:
    output = tmp_path / "out"
    more = ["--method", "mt_bert", f"teachers=[{second_encoder}]", "gates.agreement=0.5"]
    assert main(words(encoder_folder, task_folder, output, *more)) == 0
    steps = ledger(output)
    assert {"teachers", "student", "distilled"} <= set(steps)
    assert set(steps["distilled"]["inputs"]) == {"student", "teacher", "teacher-2", "data"}
    both = [load_file(output / ".run" / "teachers" / name / "model.safetensors") for name in "12"]
    heads = [{n: w for n, w in one.items() if n.startswith(("classifier", "bert.pooler"))}
             for one in both]  # fmt: skip
    assert heads[0].keys() == heads[1].keys()
    assert all((heads[0][name] == heads[1][name]).all() for name in heads[0])
    body = "bert.encoder.layer.0.attention.self.query.weight"
    assert (both[0][body] != both[1][body]).any()
    report = report_of(output)
    teacher = report.model("teacher").metric
    assert teacher is not None
    assert teacher.value > 0.8
    curves = {(curve.run, curve.stage) for curve in report.curves}
    assert curves == {("finetune", "teachers"), ("distill", "pred")}


def test_an_assistant_is_a_step_that_teaches_the_student_and_is_found_again(
    encoder_folder: Path,
    task_folder: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    output = tmp_path / "out"
    more = ["--method", "dgkd", "assistants=[{layers: 3}]", "gates.agreement=0.5"]
    assert main(words(encoder_folder, task_folder, output, *more)) == 0
    steps = ledger(output)
    assert steps["assistant-1"]["inputs"]["teacher"] == steps["teacher"]["digest"]
    inputs = steps["distilled"]["inputs"]
    assert inputs["teacher"] == steps["teacher"]["digest"]
    assert inputs["teacher-2"] == steps["assistant-1"]["digest"]
    config = json.loads((output / ".run" / "assistant-1" / "config.json").read_text())
    assert config["num_hidden_layers"] == 3
    curves = {(curve.run, curve.stage): curve for curve in report_of(output).curves}
    assert set(curves) == {("finetune", "finetune"), ("assistant", "1, pred"), ("distill", "pred")}
    assert curves["assistant", "1, pred"].evals.metric
    assert "Assistant: 1, pred" in (output / "report" / "report.html").read_text()
    capsys.readouterr()
    before = file_sha256(output / "model.safetensors")
    assert main(words(encoder_folder, task_folder, output, *more)) == 0
    assert file_sha256(output / "model.safetensors") == before
    assert "assistant-1: already done" in capsys.readouterr().err


class Killed(Exception):
    pass


class StopAt(Null):
    """Raises in the middle of the assistant's training."""

    def advance(self, task: str, done: int, total: int, **figures: object) -> None:  # noqa: ARG002
        if done == 20:
            raise Killed


def taught(
    teacher: Path, task: Path, output: Path, method: str, progress: Progress | None = None
) -> StepLog:
    """Do the training steps of a chain alone."""
    options = {"teacher": str(teacher), "data": {"path": str(task)}, "student": {"layers": 2}}
    settings = ["threads=1", "train.epochs=2", "train.lr=3e-3", "train.checkpoint_seconds=0"]
    recipe = load_recipe(None, options, [*settings, f"method={method}", "assistants=[{layers: 3}]"])
    log = StepLog(RunFolder(output), progress or Null())
    teaching = Teaching(make_plan(recipe, output), log)
    teaching.finetune()
    teaching.assist()
    teaching.design()
    teaching.distill()
    return log


def test_in_a_plain_chain_the_student_learns_from_the_assistant_alone(
    teacher_folder: Path, task_folder: Path, tmp_path: Path
) -> None:
    done = taught(teacher_folder, task_folder, tmp_path, "takd").done
    inputs = done["distilled"].inputs
    assert inputs["teacher"] == done["assistant-1"].artifact.digest
    assert "teacher-2" not in inputs


def test_a_chain_killed_in_its_assistant_ends_as_if_it_had_not_been(
    teacher_folder: Path, task_folder: Path, tmp_path: Path
) -> None:
    whole = taught(teacher_folder, task_folder, tmp_path / "whole", "dgkd").done
    with pytest.raises(Killed):
        taught(teacher_folder, task_folder, tmp_path / "cut", "dgkd", StopAt())
    assert not (tmp_path / "cut" / ".run" / "assistant-1").exists()
    cut = taught(teacher_folder, task_folder, tmp_path / "cut", "dgkd").done
    assert cut["assistant-1-start"].skipped
    for name in ("assistant-1", "distilled"):
        ends = [run[name].artifact.files["model.safetensors"] for run in (whole, cut)]
        assert ends[0] == ends[1], name


def test_commands_of_one_step_refuse_what_takes_several(
    teacher_folder: Path, encoder_folder: Path, second_encoder: Path, task_folder: Path,
    tmp_path: Path, capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    where = ["--data", str(task_folder), "-o", str(tmp_path / "out"), "threads=1"]
    chain = ["design", "--teacher", str(teacher_folder), "--layers", "2", *where,
             "assistants=[{layers: 3}]"]  # fmt: skip
    assert main(chain) == 2
    assert "assistants, which are steps of their own" in capsys.readouterr().err
    several = ["finetune", "--teacher", str(encoder_folder), *where,
               f"teachers=[{second_encoder}]"]  # fmt: skip
    assert main(several) == 2
    assert "names 2 teachers, finetune makes one" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
