"""The whole road to a board that runs .ort files: made from ONNX, proved, bundled, self-tested."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from toolchain.__main__ import main
from toolchain.bundle.check import selftest
from toolchain.report.report import Report


@pytest.fixture(scope="module")
def build(
    teacher_folder: Path, task_folder: Path, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """One finished run whose second target takes nothing but .ort files."""
    folder = tmp_path_factory.mktemp("ort-format")
    target = folder / "board.yaml"
    target.write_text(
        "name: board\nsummary: a test's board\nfidelity: none\n"
        "runtime: {name: onnxruntime, threads: 1}\n"
        "accepts: {formats: [ort], precisions: [int8, fp32]}\n"
        "budget: {memory_bytes: 1000000000}\n"
    )
    output = folder / "build"
    arguments = [
        "compress", "--teacher", str(teacher_folder), "--data", str(task_folder), "--layers", "1",
        "--target", "host", "--target", str(target), "--no-baseline", "-o", str(output),
        "--max-steps", "20", "threads=1", "benchmark.min_seconds=0.05", "benchmark.min_runs=20",
        "benchmark.rounds=2", "benchmark.tokens=[8]", "quantize.aware=never",
        "formats=[auto]", "precisions=[int8,fp32]",
    ]  # fmt: skip
    assert main(arguments) == 0
    return output


def test_each_precision_is_proved_and_answers_like_the_onnx_file_it_was_made_from(
    build: Path,
) -> None:
    report = Report.from_json(json.loads((build / "report" / "report.json").read_text()))
    for precision in ("fp32", "int8"):
        model = report.model(f"student-ort-{precision}")
        assert model.format == "ort"
        assert model.parity is not None
        assert model.parity.against == ("student" if precision == "fp32" else "student-onnx")
    ours, same = report.model("student-ort-int8").parity, report.model("student-int8").parity
    assert ours is not None
    assert same is not None
    assert ours.cosine == pytest.approx(same.cosine, abs=1e-6)
    fp32 = report.model("student-ort-fp32")
    assert {entry.runtime for entry in fp32.latency} == {"onnxruntime"}


def test_the_bundle_stands_alone_and_says_what_a_build_needs(build: Path) -> None:
    bundle = build / "bundles" / "board"
    about = json.loads((bundle / "bundle.json").read_text())
    assert about["runtime"]["name"] == "onnxruntime"
    assert {path.name for path in bundle.glob("model*")} == {
        "model.ort",
        "model.required_operators.config",
        "model.required_operators_and_types.config",
    }
    readme = (bundle / "README.md").read_text()
    assert "--include_ops_by_config model.required_operators_and_types.config" in readme
    for name in ("classify.py", "selftest.py", "README.md"):
        assert "model.onnx" not in (bundle / name).read_text(), name
    assert selftest(bundle) == []
    said = subprocess.run(
        [sys.executable, "-I", str(bundle / "classify.py"), "--json", "turn the lamp on"],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert json.loads(said.stdout)["label"] in about["labels"]


def test_the_commands_export_and_bundle_it(
    teacher_folder: Path, task_folder: Path, tmp_path: Path
) -> None:
    exported, bundle = tmp_path / "exported", tmp_path / "bundle"
    data = ["--data", str(task_folder)]
    words = ["--format", "ort", "--precision", "int8_smooth", *data, "-o", str(exported)]
    assert main(["export", str(teacher_folder), *words]) == 0
    assert (exported / "ort" / "model_int8_smooth.ort").is_file()
    target = ["--target", "raspberry-pi-4"]
    assert main(["bundle", str(exported), *data, *target, "-o", str(bundle)]) == 0
    assert selftest(bundle) == []
    about = json.loads((bundle / "bundle.json").read_text())
    assert about["precision"] == "int8_smooth"
