"""A model beyond what one ONNX file holds, through every command: graph and weights, two files.

What one file holds is set to a few thousand bytes, so that a tiny model is beyond it.
"""

import json
import subprocess
import sys
from pathlib import Path

import onnx
import pytest

from toolchain.__main__ import main
from toolchain.artifact import Artifact, file_sha256
from toolchain.bundle.check import selftest
from toolchain.onnx_pair import ONE_FILE, WEIGHTS_SHA256, data_of
from toolchain.report.report import Report

_LIMIT = "20000"


def stated(graph: Path) -> str:
    """Return the digest of its weights that a graph states."""
    proto = onnx.load(graph, load_external_data=False)
    (entry,) = (e for e in proto.metadata_props if e.key == WEIGHTS_SHA256)
    return str(entry.value)


@pytest.fixture(scope="module")
def build(
    teacher_folder: Path, task_folder: Path, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """One finished run whose files are all beyond the limit."""
    pytest.importorskip("onnxruntime_extensions", reason="the extra [extensions] is not installed")
    output = tmp_path_factory.mktemp("large") / "build"
    arguments = [
        "compress", "--teacher", str(teacher_folder), "--data", str(task_folder), "--layers", "1",
        "--no-baseline", "-o", str(output), "--max-steps", "20", "threads=1",
        "benchmark.min_seconds=0.05", "benchmark.min_runs=20", "benchmark.rounds=2",
        "benchmark.tokens=[8]", "precisions=[int8,int8_smooth,fp16,fp32]", "quantize.aware=never",
        "tokenizer=inside",
    ]  # fmt: skip
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(ONE_FILE, _LIMIT)
        assert main(arguments) == 0
    return output


def test_both_files_of_what_passed_are_published_and_belong_together(build: Path) -> None:
    report = Report.from_json(json.loads((build / "report" / "report.json").read_text()))
    graph = build / "onnx" / "model.onnx"
    assert stated(graph) == file_sha256(data_of(graph))
    sizes = graph.stat().st_size + data_of(graph).stat().st_size
    assert report.model("student-onnx").file_bytes == sizes
    files = {path.name for path in (build / "onnx").iterdir()}
    assert files == {name for file in files for name in (file, file.removesuffix("_data"))}
    assert all(f"{name}_data" in files for name in files if name.endswith(".onnx"))
    for name in ("student-onnx", "student-int8", "student-int8_smooth", "student-fp16"):
        assert report.model(name).parity is not None, name
    assert {entry.runtime for entry in report.model("student-onnx").latency} == {"onnxruntime"}


def test_its_bundle_holds_both_and_finds_changed_weights(build: Path) -> None:
    bundle = build / "bundles" / "host"
    about = json.loads((bundle / "bundle.json").read_text())
    weights = bundle / about["model"]["weights"]
    assert selftest(bundle) == []
    assert stated(bundle / "model.onnx") == file_sha256(weights)
    assert about["model"]["file_bytes"] == sum(
        path.stat().st_size for path in (bundle / "model.onnx", weights)
    )
    assert weights.name in (bundle / "README.md").read_text()
    said = subprocess.run(
        [sys.executable, "-I", str(bundle / "classify.py"), "--json", "turn the lamp on"],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert json.loads(said.stdout)["label"] in about["labels"]
    content = weights.read_bytes()
    weights.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    assert f"{weights.name} was changed" in selftest(bundle)[0]
    weights.write_bytes(content)


def test_a_tokenizer_stays_beside_such_a_model(build: Path) -> None:
    said = "the model is no single file"
    assert said in (build / "events.jsonl").read_text() + (build / "README.md").read_text()
    assert not (build / "onnx" / "text_model.onnx").exists()


def test_a_run_again_finds_every_step_done(
    build: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(ONE_FILE, _LIMIT)
    before = {path: path.stat().st_mtime_ns for path in (build / "onnx").iterdir()}
    assert main(["compress", str(build / "recipe.yaml"), "-o", str(build)]) == 0
    assert {path: path.stat().st_mtime_ns for path in (build / "onnx").iterdir()} == before
    assert "student-int8: already done" in capsys.readouterr().err


def test_the_commands_by_themselves_write_prove_and_pack_both(
    teacher_folder: Path, task_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(ONE_FILE, _LIMIT)
    exported, quantized, bundle = tmp_path / "exported", tmp_path / "quantized", tmp_path / "bundle"
    data = ["--data", str(task_folder)]
    assert main(["export", str(teacher_folder), "-o", str(exported)]) == 0
    assert Artifact.open(exported).files.keys() >= {"onnx/model.onnx", "onnx/model.onnx_data"}
    assert not list(exported.glob("onnx/plain*"))
    words = ["--precision", "fp16", "-o", str(quantized)]
    assert main(["quantize", str(exported), *words]) == 0
    artifact = Artifact.open(quantized)
    sizes = [path.stat().st_size for path in (quantized / "onnx").iterdir()]
    assert artifact.facts["bytes"] == sum(sizes)
    assert len(sizes) == 2
    proved = ["--against", str(exported), *data, "-o", str(tmp_path / "proved")]
    assert main(["verify", str(quantized), *proved]) == 0
    timed = [*data, "--seconds", "0.05", "-o", str(tmp_path / "timed")]
    assert main(["benchmark", str(exported), str(quantized), *timed]) == 0
    assert main(["bundle", str(quantized), *data, "-o", str(bundle)]) == 0
    assert selftest(bundle) == []
    assert (bundle / "model_fp16.onnx_data").is_file()


def damage(data: Path, kind: str) -> None:
    content = data.read_bytes()
    data.unlink()
    if kind != "gone":
        data.write_bytes(content[:-9] if kind == "cut" else content[:-1] + b"x")


@pytest.mark.parametrize("kind", ["gone", "cut", "changed"])
@pytest.mark.parametrize("listed", [True, False], ids=["ours", "foreign"])
def test_weights_that_are_gone_cut_or_changed_are_found_before_work(
    kind: str,
    listed: bool,
    teacher_folder: Path,
    task_folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv(ONE_FILE, _LIMIT)
    exported, data = tmp_path / "exported", ["--data", str(task_folder)]
    assert main(["export", str(teacher_folder), "-o", str(exported)]) == 0
    damage(exported / "onnx" / "model.onnx_data", kind)
    if not listed:
        (exported / "manifest.json").unlink()
    out = tmp_path / "out"
    commands = {
        "quantize": ["quantize", str(exported)],
        "bundle": ["bundle", str(exported), *data],
    }
    for name, words in commands.items():
        code = main([*words, "-o", str(out)])
        said = capsys.readouterr().err
        assert code == 4, said
        assert "model.onnx" in said
        assert not out.exists(), name
