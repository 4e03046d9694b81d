"""Methods through the command line: three stages on raw text, narrower students, TensorBoard."""

import json
from pathlib import Path

import pytest

from tests.conftest import sentences
from toolchain.__main__ import main

QUICK = ["--max-steps", "4", "--no-baseline", "--json", "threads=1", "benchmark.min_runs=20",
         "benchmark.min_seconds=0.02", "benchmark.rounds=2", "benchmark.tokens=[]",
         # Four steps of training decide nothing; whether the road holds is the question.
         "gates.agreement=0", "gates.cosine=0", "gates.max_drop=1"]  # fmt: skip


def compress(teacher: Path, data: Path, output: Path, *more: str) -> dict:
    words = ["--teacher", str(teacher), "--data", str(data), "-o", str(output)]
    assert main(["compress", *words, *QUICK, *more]) == 0
    return json.loads((output / "report" / "report.json").read_text())


def stages(report: dict) -> list[str]:
    return [curve["stage"] for curve in report["curves"] if curve["run"] == "distill"]


def test_tinybert_runs_its_three_stages_when_there_is_raw_text(
    encoder_folder: Path, task_folder: Path, tmp_path: Path
) -> None:
    raw = tmp_path / "raw.txt"
    raw.write_text("\n".join(text for text, _ in sentences(100, seed=9)) + "\n")
    report = compress(
        encoder_folder, task_folder, tmp_path / "out", "--layers", "2",
        "--method", "tinybert", f"data.raw={raw}", "train.tensorboard=true",
    )  # fmt: skip
    assert stages(report) == ["general", "inter", "pred"]
    parts = report["curves"][1]["points"]["parts"]
    assert set(parts) == {"tinybert/emb", "tinybert/hidden", "tinybert/attention"}
    assert list((tmp_path / "out" / "tensorboard" / "distilled" / "inter").glob("events.*"))


def test_a_narrower_student_is_distilled_by_relations_from_a_random_start(
    teacher_folder: Path, task_folder: Path, tmp_path: Path
) -> None:
    report = compress(
        teacher_folder, task_folder, tmp_path / "out", "--layers", "2", "--hidden", "16"
    )
    assert stages(report) == ["inter", "pred"]
    assert report["plan"]["init"] == "random"
    assert report["plan"]["student"]["width"] == 16
    assert any("relations first" in reason for reason in report["plan"]["reasons"])


def test_a_method_without_a_head_is_followed_by_a_stage_on_labels(
    teacher_folder: Path, task_folder: Path, tmp_path: Path
) -> None:
    report = compress(
        teacher_folder, task_folder, tmp_path / "out", "--layers", "2", "--method", "minilm_v2"
    )
    assert stages(report) == ["inter", "pred"]
    assert any("trains no head" in reason for reason in report["plan"]["reasons"])


def test_pairs_go_the_same_road(teacher_folder: Path, tmp_path: Path, task_folder: Path) -> None:
    data = tmp_path / "pairs"
    data.mkdir()
    for name in ("train", "dev"):
        rows = (task_folder / f"{name}.tsv").read_text().splitlines()[1:]
        lines = ["text_a\ttext_b\tlabel"]
        for row in rows:
            text, label = row.split("\t")
            first, _, second = text.partition(" ")
            lines.append(f"{first}\t{second}\t{label}")
        (data / f"{name}.tsv").write_text("\n".join(lines) + "\n")
    report = compress(teacher_folder, data, tmp_path / "out", "--layers", "1")
    assert report["task"]["rows"]["test"] is None
    assert report["shipped"]["host"] is not None
    golden = tmp_path / "out" / "bundles" / "host" / "golden.jsonl"
    first = json.loads(golden.read_text().splitlines()[0])
    assert len([key for key in first if "text" in key]) >= 1


@pytest.mark.shared
def test_real_weights_go_the_road_too(shared: Path, tmp_path: Path) -> None:
    report = compress(
        shared / "models" / "minilm-l6-sst2", shared / "data" / "sst2", tmp_path / "out",
        "--layers", "3", "data.max_tokens=64",
    )  # fmt: skip
    metrics = {m["name"]: m["metric"]["value"] for m in report["models"]}
    assert metrics["teacher"] == pytest.approx(0.9025, abs=0.0006)
    files = {m["name"]: m["file_bytes"] for m in report["models"]}
    assert files["student-int8"] < files["student-onnx"] / 3.5
