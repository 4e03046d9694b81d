"""The whole road with a second format: proved, timed beside ONNX, shipped and self-tested."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import TARGET, make_teacher
from toolchain.__main__ import main
from toolchain.bundle.check import selftest
from toolchain.bundle.engines import ENGINES
from toolchain.export.exporter import exporters
from toolchain.report.report import Report

pytest.importorskip("openvino", reason="the extra [openvino] is not installed")
pytest.importorskip("nncf", reason="the extra [openvino] is not installed")


@pytest.fixture(scope="module")
def build(
    teacher_folder: Path, task_folder: Path, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """One finished run whose second target takes nothing but OpenVINO."""
    folder = tmp_path_factory.mktemp("formats")
    target = folder / "intel.yaml"
    target.write_text(TARGET.format(name="intel", format="openvino"))
    output = folder / "build"
    arguments = [
        "compress", "--teacher", str(teacher_folder), "--data", str(task_folder), "--layers", "1",
        "--target", "host", "--target", str(target), "--no-baseline", "-o", str(output),
        "--max-steps", "20", "threads=1", "benchmark.min_seconds=0.05", "benchmark.min_runs=20",
        "benchmark.rounds=2", "benchmark.tokens=[8]",
        "formats=[onnx,openvino]", "precisions=[int8,bf16,fp32]",
    ]  # fmt: skip
    assert main(arguments) == 0
    return output


@pytest.fixture(scope="module")
def report(build: Path) -> Report:
    return Report.from_json(json.loads((build / "report" / "report.json").read_text()))


def test_every_precision_of_the_format_is_judged_and_what_passes_is_timed(report: Report) -> None:
    for precision in ("fp32", "bf16", "int8"):
        model = report.model(f"student-openvino-{precision}")
        assert model.format == "openvino"
        assert model.parity is not None
        assert model.parity.against == ("student" if precision == "fp32" else "student-onnx")
        gates = {gate.gate: gate for gate in report.gates if gate.model == model.name}
        # What is not proved is not timed; of so small a model the graph's text outweighs int8.
        sound = all(gate.passed for name, gate in gates.items() if name != "faster")
        assert {entry.runtime for entry in model.latency} == ({"openvino"} if sound else set())
        assert ("max_abs" in gates) == (precision == "fp32") == ("faster" not in gates)
        assert sound or precision != "fp32"


def test_files_lie_where_others_look_for_them(build: Path, report: Report) -> None:
    for file in ("openvino_model.xml", "openvino_model.bin"):
        assert (build / "openvino" / file).is_file()
    model = report.model("student-openvino-fp32")
    files = [build / "openvino/openvino_model.xml", build / "openvino/openvino_model.bin"]
    assert model.file_bytes == sum(path.stat().st_size for path in files)


def test_a_bundle_in_the_format_stands_alone(build: Path) -> None:
    bundle = build / "bundles" / "intel"
    about = json.loads((bundle / "bundle.json").read_text())
    assert about["runtime"]["name"] == "openvino"
    assert "openvino>=" in (bundle / "requirements.txt").read_text()
    for name in ("classify.py", "selftest.py", "README.md", "requirements.txt"):
        assert "onnx" not in (bundle / name).read_text(), name
    tested = subprocess.run(
        [sys.executable, "-I", str(bundle / "selftest.py"), "--json"],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert tested.returncode == 0, tested.stdout
    said = subprocess.run(
        [sys.executable, "-I", str(bundle / "classify.py"), "--json", "turn the lamp on"],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert json.loads(said.stdout)["label"] in about["labels"]
    model = bundle / "model.bin"
    model.write_bytes(model.read_bytes()[:-1] + b"x")
    tested = subprocess.run(
        [sys.executable, "-I", str(bundle / "selftest.py")],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert tested.returncode == 4
    assert "model.bin was changed" in tested.stdout + tested.stderr


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    "name", ["openvino", "litert", pytest.param("executorch", marks=pytest.mark.slow)]
)
def test_the_commands_export_and_bundle_a_format(
    name: str, task_folder: Path, tmp_path: Path
) -> None:
    for package in exporters.get(name).packages:
        pytest.importorskip(package, reason=f"the extra [{name}] is not installed")
    exported, bundle = tmp_path / "exported", tmp_path / "bundle"
    teacher = make_teacher(tmp_path / "teacher", head=True, num_hidden_layers=1)
    asked = ["--format", name, "--precision", "int8"]
    if "int8" in exporters.get(name).calibrated:
        asked += ["--data", str(task_folder)]
    assert main(["export", str(teacher), *asked, "-o", str(exported)]) == 0
    assert (exported / exporters.get(name).files["int8"]).is_file()
    # No target of ours takes ExecuTorch by itself.
    target = tmp_path / "phone.yaml"
    target.write_text(TARGET.format(name="phone", format=name))
    packed = ["--data", str(task_folder), "--target", str(target), "-o", str(bundle)]
    assert main(["bundle", str(exported), *packed]) == 0
    about = json.loads((bundle / "bundle.json").read_text())
    assert (about["runtime"]["name"], about["precision"]) == (ENGINES[name].package, "int8")
    assert selftest(bundle) == []


def test_what_a_format_cannot_do_is_refused_before_weights_load(
    teacher_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    export = ["export", str(teacher_folder), "-o", str(tmp_path / "out")]
    assert main([*export, "--format", "openvino", "--precision", "int8"]) == 2
    assert "looks at texts" in capsys.readouterr().err
    assert main([*export, "--precision", "int8"]) == 2
    assert "toolchain quantize" in capsys.readouterr().err
    assert main([*export, "--format", "openvno"]) == 2
    assert "did you mean 'openvino'" in capsys.readouterr().err
    assert main([*export, "--format", "openvino", "--precision", "int3"]) == 2
    assert "has no precision 'int3'" in capsys.readouterr().err
