"""Quantisation-aware distillation on the whole road: when it runs, what it leaves, a kill."""

import json
from pathlib import Path

import pytest

from tests.integration.test_compress import QUICK as WITH_A_BARE_TEACHER
from tests.integration.test_methods_end_to_end import stages
from toolchain.__main__ import main
from toolchain.artifact import Artifact, file_sha256

QUICK = [word for word in WITH_A_BARE_TEACHER if not word.startswith("finetune.")]
# No int8 file of a random model keeps five digits of fp32.
STRICT = ["gates.cosine=0.99999", "quantize.epochs=2"]


def compress(teacher: Path, data: Path, output: Path, *more: str) -> int:
    return main(
        ["compress", "--teacher", str(teacher), "--data", str(data), "--layers", "2",
         "--target", "host", "-o", str(output), *QUICK, "train.epochs=2", "baseline=false", *more]
    )  # fmt: skip


def read(output: Path) -> dict:
    return json.loads((output / "report" / "report.json").read_text())


@pytest.fixture(scope="module")
def adapted(
    teacher_folder: Path, task_folder: Path, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """A run whose int8 file misses its gate."""
    output = tmp_path_factory.mktemp("aware") / "build"
    assert compress(teacher_folder, task_folder, output, *STRICT) == 0
    return output


def test_a_missed_gate_is_followed_by_a_stage_and_a_second_int8_file(adapted: Path) -> None:
    report = read(adapted)
    models = {model["name"]: model for model in report["models"]}
    assert {"student-aware", "student-aware-onnx", "student-aware-int8"} <= set(models)
    assert stages(report) == ["pred", "aware"]
    assert models["student-aware"]["sha256"] != models["student"]["sha256"]
    assert models["student-aware-int8"]["sha256"] != models["student-int8"]["sha256"]
    assert models["student-aware-int8"]["parity"]["against"] == "student-aware-rounded"
    gates = {(g["model"], g["name"]): g for g in report["gates"]}
    assert gates["student-int8", "cosine"]["passed"] is False
    # It answers like what was trained, far closer than int8 does like fp32.
    off = models["student-aware-int8"]["parity"]["max_abs"]
    assert off < 1e-3 * models["student-int8"]["parity"]["max_abs"]
    # Its metric is held against the ordinary student's, not against its own fp32 file.
    drop = gates["student-aware-int8", "max_drop"]["observed"]
    assert f"against {models['student-onnx']['metric']['value']:.4f}" in drop


def test_the_training_was_that_of_the_plan(adapted: Path) -> None:
    trained = Artifact.open(adapted / ".run" / "aware")
    (stage,) = trained.facts["stages"]
    # 480 rows in batches of 32, twice.
    assert stage["steps"] == 30
    assert stage["lr"] == pytest.approx(0.5 * 3e-3)
    ledger = json.loads((adapted / "run.json").read_text())
    steps = {step["name"]: step for step in ledger["steps"]}
    assert steps["aware"]["inputs"]["student"] == steps["distilled"]["digest"]
    reasons = " ".join(ledger["plan"]["reasons"])
    assert "should the int8 file miss a gate, the student is trained on for 30 steps" in reasons


def test_its_fp32_file_never_ships(adapted: Path) -> None:
    report = read(adapted)
    assert report["shipped"]["host"]["model"] in ("student-onnx", "student-aware-int8")
    models = {model["name"]: model for model in report["models"]}
    # The file that passes takes the place of the one that does not.
    published = file_sha256(adapted / "onnx" / "model_quantized.onnx")
    assert published == models["student-aware-int8"]["sha256"]
    assert file_sha256(adapted / "onnx" / "model.onnx") == models["student-onnx"]["sha256"]
    assert models["student-int8"]["path"] in ("", None)


@pytest.mark.slow
def test_a_killed_stage_goes_on_and_ends_in_the_same_bytes(
    teacher_folder: Path,
    task_folder: Path,
    tmp_path: Path,
    adapted: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from toolchain.distill import trainer

    class Killed(Exception):
        pass

    step = trainer._Loop._step

    def stopping(self: trainer._Loop, number: int, chosen: list[int]) -> None:
        if self.run.name == "aware" and number == 17:
            raise Killed
        step(self, number, chosen)

    output = tmp_path / "build"
    words = (*STRICT, "train.checkpoint_seconds=0")
    with monkeypatch.context() as patched:
        patched.setattr(trainer._Loop, "_step", stopping)
        with pytest.raises(Killed):
            compress(teacher_folder, task_folder, output, *words)
    assert not (output / ".run" / "aware").exists()
    assert compress(teacher_folder, task_folder, output, *words) == 0
    done = {step["name"]: step for step in json.loads((output / "run.json").read_text())["steps"]}
    assert done["distilled"]["skipped"]
    assert not done["aware"]["skipped"]
    ours, theirs = read(output), read(adapted)
    for report in (ours, theirs):
        report["models"] = {model["name"]: model["sha256"] for model in report["models"]}
    assert ours["models"]["student-aware-int8"] == theirs["models"]["student-aware-int8"]
    # Once more: everything is found.
    assert compress(teacher_folder, task_folder, output, *words) == 0
    again = json.loads((output / "run.json").read_text())["steps"]
    assert all(step["skipped"] for step in again)
