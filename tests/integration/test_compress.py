"""The whole road on a tiny real teacher: what product.md promises of a run, in seconds."""

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from toolchain.__main__ import main
from toolchain.artifact import file_sha256
from toolchain.report.report import Report

QUICK = [
    "benchmark.min_seconds=0.05",
    "benchmark.min_runs=20",
    "benchmark.rounds=4",
    "benchmark.tokens=[8]",
    "train.epochs=6",
    "train.lr=3e-3",
    "finetune.epochs=20",
    "finetune.lr=3e-3",
    "gates.agreement=0.9",
    # Two threads on a model this small only wait for each other.
    "threads=1",
]


def arguments(encoder: Path, data: Path, output: Path, *more: str) -> list[str]:
    return [
        "compress", "--teacher", str(encoder), "--data", str(data), "--layers", "2",
        "--target", "host", "--target", "raspberry-pi-4", "-o", str(output), *QUICK, *more,
    ]  # fmt: skip


@pytest.fixture(scope="module")
def build(
    encoder_folder: Path, task_folder: Path, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """One finished run from a bare encoder."""
    output = tmp_path_factory.mktemp("run") / "build"
    assert main(arguments(encoder_folder, task_folder, output)) == 0
    return output


@pytest.fixture(scope="module")
def report(build: Path) -> Report:
    return Report.from_json(json.loads((build / "report" / "report.json").read_text()))


def test_the_folder_is_what_was_promised(build: Path) -> None:
    for name in (
        "config.json", "model.safetensors", "tokenizer.json", "README.md", "onnx/model.onnx",
        "report/report.html", "report/report.json", "report/report.md", "recipe.yaml", "run.json",
        "events.jsonl", "bundles/host/manifest.json", "bundles/raspberry-pi-4/manifest.json",
    ):  # fmt: skip
        assert (build / name).is_file(), name


def test_the_models_learned_and_the_student_is_smaller(report: Report) -> None:
    metrics = {model.name: model.metric.value for model in report.models if model.metric}
    assert metrics["teacher"] > 0.9
    assert metrics["student"] > 0.85
    assert report.model("student").parameters < report.model("teacher").parameters  # type: ignore[operator]


def test_every_figure_has_its_samples_and_its_machine(report: Report) -> None:
    timed = [model for model in report.models if model.latency]
    assert {"teacher", "teacher-onnx", "student-onnx"} <= {model.name for model in timed}
    for model in timed:
        assert model.peak_bytes
        assert model.cold_start_ms
        for entry in model.latency:
            assert (entry.target, entry.fidelity) == ("host", "measured")
            assert len(entry.samples) == entry.runs >= 20
            assert (entry.p99_ms is None) == (entry.runs < 1000)
    assert report.environment["cpu"]


def test_parity_is_proved_on_all_dev_rows(report: Report) -> None:
    parity = report.model("student-onnx").parity
    assert parity is not None
    assert parity.rows == 96
    assert parity.max_abs <= 1e-4


def test_a_fair_baseline_stands_beside_the_student(report: Report, build: Path) -> None:
    baseline = report.model("baseline")
    assert baseline.parameters == report.model("student").parameters
    steps = {step["name"]: step for step in json.loads((build / "run.json").read_text())["steps"]}
    start = steps["student"]["digest"]
    assert (
        steps["baseline"]["inputs"]["student"] == steps["distilled"]["inputs"]["student"] == start
    )


def test_the_page_needs_no_network(build: Path) -> None:
    page = (build / "report" / "report.html").read_text()
    assert "<script src" not in page
    assert "@import" not in page


@pytest.mark.parametrize("target", ["host", "raspberry-pi-4"])
def test_the_bundle_passes_its_own_test_where_toolchain_is_not_installed(
    build: Path, target: str, tmp_path: Path
) -> None:
    folder = Path(shutil.copytree(build / "bundles" / target, tmp_path / "bundle"))
    done = subprocess.run(
        [sys.executable, "selftest.py"], cwd=folder, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "PASS" in done.stdout


def test_the_sample_answers_like_the_student(build: Path) -> None:
    from transformers import pipeline

    text = "please turn the lamp on"
    done = subprocess.run(
        [sys.executable, "classify.py", text],
        cwd=build / "bundles" / "host",
        capture_output=True,
        text=True,
        check=True,
    )
    ours = pipeline("text-classification", model=str(build), device="cpu")(text)[0]["label"]
    assert ours in done.stdout


def test_the_output_loads_as_a_transformers_model(build: Path) -> None:
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    model = AutoModelForSequenceClassification.from_pretrained(build)
    tokenizer = AutoTokenizer.from_pretrained(build)
    assert model.config.num_hidden_layers == 2
    assert model(**tokenizer("turn on the radio", return_tensors="pt")).logits.shape == (1, 3)


def test_the_same_command_again_repeats_nothing_and_ends_the_same(
    build: Path, encoder_folder: Path, task_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = digests(build)
    assert main(arguments(encoder_folder, task_folder, build)) == 0
    assert digests(build) == before
    said = capsys.readouterr().err
    steps = ("teacher", "student", "distilled", "baseline", "student-onnx", "verify", "benchmark")
    for step in steps:
        assert f"{step}: already done" in said


def test_a_damaged_step_is_done_again(
    build: Path, encoder_folder: Path, task_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = digests(build)
    path = build / ".run" / "student-onnx" / "onnx" / "model.onnx"
    path.write_bytes(path.read_bytes()[:-1] + b"\x00")
    (build / "onnx" / "model.onnx").write_bytes(b"garbage")
    assert main(arguments(encoder_folder, task_folder, build)) == 0
    assert digests(build) == before
    assert "distilled: already done" in capsys.readouterr().err


def test_a_recipe_saved_by_a_run_repeats_it(
    build: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The saved recipe is complete: made into a plan, it is the same recipe."""
    words = [
        "compress",
        str(build / "recipe.yaml"),
        "-o",
        str(tmp_path / "x"),
        "--dry-run",
        "--json",
    ]
    assert main(words) == 0
    again = json.loads(capsys.readouterr().out)
    first = json.loads((build / "run.json").read_text())["plan"]
    for key in ("student", "init", "layer_map", "method", "stages", "baseline", "finetune"):
        assert again[key] == first[key], key


def test_a_dry_run_writes_nothing(
    encoder_folder: Path, task_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "out"
    assert main(arguments(encoder_folder, task_folder, output, "--dry-run")) == 0
    assert "estimated" in capsys.readouterr().out
    assert not output.exists()


def test_a_limit_that_is_missed_ends_with_3_and_keeps_everything(
    teacher_folder: Path, task_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "out"
    words = arguments(
        teacher_folder, task_folder, output, "--no-baseline", "--max-steps", "3",
        "gates.min_kept=1.0", "gates.latency_ms=0.000001",
    )  # fmt: skip
    words = [word for word in words if not word.startswith("finetune.")]
    assert main(words) == 3
    said = capsys.readouterr().err
    assert "a gate was not met" in said
    assert "latency_ms" in said
    assert (output / "report" / "report.html").is_file()
    assert (output / "onnx" / "model.onnx").is_file()


def digests(output: Path) -> dict[str, str]:
    """What must not depend on interruptions: weights, graphs, and the metrics found."""
    found = {name: file_sha256(output / name) for name in ("model.safetensors", "onnx/model.onnx")}
    steps = json.loads((output / "run.json").read_text())["steps"]
    found |= {s["name"]: s["digest"] for s in steps if s["name"] not in ("benchmark", "verify")
              and not s["name"].startswith("bundle")}  # fmt: skip
    models = json.loads((output / "report" / "report.json").read_text())["models"]
    found |= {f"metric {m['name']}": str(m["metric"]["value"]) for m in models}
    return found


def run_and_kill(words: list[str], seconds: float | None) -> int:
    """Run a command in a process of its own and kill it after some seconds, children included."""
    process = subprocess.Popen(
        [sys.executable, "-m", "toolchain", *words],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        return process.wait(timeout=seconds)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        return process.wait()


def killed_often(words: list[str], kills: int, span: float, seed: int) -> None:
    """Start the command again and again, killing it at random moments, then let it finish."""
    generator = random.Random(seed)
    for _ in range(kills):
        if run_and_kill(words, generator.uniform(0.5, span)) == 0:
            break
    assert run_and_kill(words, None) == 0


@pytest.mark.parametrize("kills", [3, pytest.param(10, marks=pytest.mark.slow)])
def test_a_run_killed_at_random_moments_ends_as_if_it_had_not_been(
    build: Path, encoder_folder: Path, task_folder: Path, tmp_path: Path, kills: int
) -> None:
    output = tmp_path / "out"
    started = time.monotonic()
    killed_often(
        arguments(encoder_folder, task_folder, output, "train.checkpoint_seconds=0.2"),
        kills,
        span=15.0,
        seed=kills,
    )
    assert time.monotonic() > started
    expected = digests(build)
    found = digests(output)
    assert found == expected
