"""A teacher whose weights lie in several files, as every large one's do, down the whole road."""

import json
from pathlib import Path

import pytest
from safetensors.torch import load_file, save_file

from toolchain.__main__ import main
from toolchain.models.loading import load_classifier, load_tokenizer
from toolchain.models.shards import weights_digest
from toolchain.report.report import Report


@pytest.fixture(scope="module")
def sharded(teacher_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("sharded") / "teacher"
    load_classifier(teacher_folder).save_pretrained(folder, max_shard_size="20KB")
    load_tokenizer(teacher_folder).save_pretrained(folder)
    assert len(list(folder.glob("*.safetensors"))) > 2
    assert not (folder / "model.safetensors").exists()
    return folder


def test_it_is_compressed_and_reported_as_large_as_it_is(
    sharded: Path, task_folder: Path, tmp_path: Path
) -> None:
    output = tmp_path / "build"
    arguments = [
        "compress", "--teacher", str(sharded), "--data", str(task_folder), "--layers", "1",
        "--no-baseline", "-o", str(output), "--max-steps", "20", "threads=1",
        "benchmark.min_seconds=0.05", "benchmark.min_runs=20", "benchmark.rounds=2",
        "benchmark.tokens=[8]", "quantize.aware=never",
    ]  # fmt: skip
    assert main(arguments) == 0
    report = Report.from_json(json.loads((output / "report" / "report.json").read_text()))
    shards = sum(path.stat().st_size for path in sharded.glob("*.safetensors"))
    assert report.model("teacher").file_bytes == shards
    assert report.model("teacher").latency
    # Nothing of the teacher's shards is left in what is given away.
    assert [p.name for p in output.glob("*.safetensors")] == ["model.safetensors"]


def test_its_folder_is_verified_and_timed_by_itself(
    sharded: Path, task_folder: Path, tmp_path: Path
) -> None:
    onnx = str(tmp_path / "onnx")
    words = ["--against", str(sharded), "--data", str(task_folder), "-o", str(tmp_path / "proof")]
    assert main(["export", str(sharded), "-o", onnx]) == 0
    assert main(["verify", onnx, *words]) == 0


def test_another_value_in_any_shard_is_another_model(sharded: Path) -> None:
    before = weights_digest(sharded, "teacher")
    last = sorted(sharded.glob("*.safetensors"))[-1]
    kept = last.read_bytes()
    tensors = load_file(last)
    name = sorted(tensors)[0]
    save_file({**tensors, name: tensors[name] + 1}, last, {"format": "pt"})
    assert weights_digest(sharded, "teacher") != before
    last.write_bytes(kept)
    assert weights_digest(sharded, "teacher") == before
