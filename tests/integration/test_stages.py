"""Every stage as a command of its own: reads a folder, writes a folder."""

import json
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

from toolchain.__main__ import main
from toolchain.artifact import Artifact


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("stages")


def do(*words: object) -> int:
    return main([str(word) for word in words])


def test_the_stages_one_after_another(
    root: Path, encoder_folder: Path, task_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    teacher, student, small = root / "teacher", root / "student", root / "distilled"
    fit = ["train.lr=3e-3", "finetune.lr=3e-3", "finetune.epochs=15", "train.epochs=6"]
    data = ["--data", task_folder]
    assert do("finetune", "--teacher", encoder_folder, *data, "-o", teacher, *fit) == 0
    shape = ["--layers", 2, "--method", "kd"]
    assert do("design", "--teacher", teacher, *data, *shape, "-o", student) == 0
    ends = ["--teacher", teacher, "--student", student]
    # What fine-tuning was told is not for a teacher that has its head.
    assert do("distill", *ends, *data, "--method", "kd", "-o", small, fit[0], fit[3]) == 0
    alone = ["--labels-only", "-o", root / "baseline"]
    assert do("distill", *ends, *data, "--method", "kd", *alone, fit[0], fit[3]) == 0
    assert do("export", small, "-o", root / "onnx") == 0
    assert do("quantize", root / "onnx", "-o", root / "int8") == 0
    assert do("verify", root / "onnx", "--against", small, *data, "-o", root / "v32") == 0
    capsys.readouterr()
    code = do(
        "verify", root / "int8", "--against", root / "onnx", *data, "-o", root / "v8", "--json"
    )
    said = capsys.readouterr()
    assert code in (0, 3), said.err
    assert "cosine" in said.err
    told = json.loads(said.out)
    assert told["folder"] == str(root / "v8")
    assert {gate["name"] for gate in told["gates"]} >= {"cosine", "smaller"}
    assert told["metrics"]["model"]["name"] == "accuracy"
    timed = [small, root / "onnx", root / "int8"]
    assert do("benchmark", *timed, *data, "--seconds", "0.02", "-o", root / "times") == 0
    assert "p50 ms" in capsys.readouterr().out
    assert do("benchmark", *timed, *data, "--seconds", "0.02", "-o", root / "times", "--json") == 0
    latency = json.loads(capsys.readouterr().out)["latency"]
    assert {one["model"] for one in latency} == set(map(str, timed))
    assert all(one["p50_ms"] > 0 for one in latency)
    assert do("bundle", root / "int8", *data, "--target", "host", "-o", root / "bundle") == 0
    done = subprocess.run(
        [sys.executable, str(root / "bundle" / "selftest.py")],
        capture_output=True,
        text=True,
        check=False,
    )
    assert "PASS" in done.stdout
    for name in ("teacher", "student", "distilled", "baseline", "onnx", "int8", "v32", "bundle"):
        Artifact.open(root / name)


@pytest.fixture(scope="module")
def made(teacher_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What export and quantize make, for tests that run in whatever order and process."""
    folder = tmp_path_factory.mktemp("made")
    assert do("export", teacher_folder, "-o", folder / "onnx") == 0
    assert do("quantize", folder / "onnx", "-o", folder / "int8") == 0
    return folder


def test_a_stage_done_is_not_done_again_and_never_overwrites_another(
    made: Path, teacher_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = (made / "onnx" / "manifest.json").stat().st_mtime_ns
    assert do("export", teacher_folder, "-o", made / "onnx") == 0
    assert (made / "onnx" / "manifest.json").stat().st_mtime_ns == before
    capsys.readouterr()
    assert do("export", teacher_folder, "-o", made / "int8") == 2
    assert "not written by export" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["finetune", "--teacher", "{teacher}", "--data", "{data}"], "it has a head already"),
        (["distill", "--teacher", "{teacher}", "--data", "{data}"], "--student is missing"),
        (["export", "{encoder}"], "a bare encoder without a head"),
        # It looks like a hub id, and no hub is asked.
        (["export", "no/folder"], "no/folder: no such folder"),
        (["quantize", "{made}/onnx", "--data", "{data}"], "--data is not read by precision int8"),
        (
            ["benchmark", "{made}/onnx", "--data", "{data}", "--seconds", "0"],
            "--seconds: min_seconds: should be greater than 0",
        ),
        (
            ["cache", "--teacher", "{teacher}", "--data", "{data}", "placement.teacher=zero3"],
            "a cache is filled by a teacher that is whole or streamed",
        ),
        (["quantize", "{teacher}"], "holds no onnx/model.onnx"),
        (["quantize", "{made}/int8"], "quantising twice: it holds int8, and no fp32 model"),
        (["bundle", "{teacher}", "--data", "{data}"], "not exported yet"),
        (
            ["verify", "{made}/none", "--against", "{made}/onnx", "--data", "{data}"],
            "no such folder",
        ),
        (["report", "{made}/none"], "no such file"),
        (["methods", "show"], "write methods, or methods show NAME"),
        (["targets", "show", "pi"], "unknown target 'pi'"),
    ],
)
def test_a_stage_refuses_what_it_cannot_read(
    words: list[str],
    sentence: str,
    made: Path,
    teacher_folder: Path,
    encoder_folder: Path,
    task_folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    places = {"made": made, "teacher": teacher_folder, "encoder": encoder_folder}
    filled = [word.format(data=task_folder, **places) for word in words]
    assert main(filled) == 2
    assert sentence in capsys.readouterr().err.replace("\n", " ")
    assert list(tmp_path.iterdir()) == []


def test_the_doctor_names_what_is_not_installed(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["doctor", "--json"]) == 0
    missing = json.loads(capsys.readouterr().out)["not_installed"]
    for name, package in (("format litert", "litert_torch"), ("deepspeed", "deepspeed")):
        assert (name in missing) == (find_spec(package) is None)
    assert "format onnx" not in missing
    if "format litert" in missing:
        assert "-c constraints-litert.txt" in missing["format litert"]
