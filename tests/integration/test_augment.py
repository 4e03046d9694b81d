"""Augmented rows on the whole road: who learns from them, how long, and what is refused."""

import json
from pathlib import Path

import pytest
import torch
from transformers import BertConfig, BertForMaskedLM

from tests.conftest import make_teacher, sentences
from toolchain.__main__ import main

QUICK = ["threads=1", "--json", "benchmark.min_runs=20", "benchmark.rounds=2",
         "benchmark.min_seconds=0.02", "benchmark.tokens=[]",
         "gates.agreement=0", "gates.cosine=0", "gates.max_drop=1"]  # fmt: skip


@pytest.fixture(scope="module")
def speller(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = make_teacher(tmp_path_factory.mktemp("speller"), head=False)
    torch.manual_seed(0)
    BertForMaskedLM(BertConfig.from_pretrained(folder)).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("small")
    write_task(folder)
    return folder


def write_task(folder: Path) -> list[tuple[str, str]]:
    """Write 80 rows of train and 40 of dev; returns all of them."""
    rows = sentences(120, seed=2)
    for name, part in (("train", rows[:80]), ("dev", rows[80:])):
        lines = ["text\tlabel", *(f"{text}\t{label}" for text, label in part)]
        (folder / f"{name}.tsv").write_text("\n".join(lines) + "\n")
    return rows


def words(teacher: Path, data: Path, out: Path, *more: str) -> list[str]:
    return ["compress", "--teacher", str(teacher), "--data", str(data), "-o", str(out),
            "--layers", "2", "train.epochs=1", "train.batch_size=16", *QUICK, *more]  # fmt: skip


def manifest(out: Path, step: str) -> dict:
    return json.loads((out / ".run" / step / "manifest.json").read_text())["facts"]


def test_students_learn_from_copies_and_the_baseline_from_the_rows_alone(
    teacher_folder: Path, speller: Path, small: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    settings = ["--method", "tinybert", f"data.augment.model={speller}", "data.augment.copies=3"]
    assert main(words(teacher_folder, small, out, *settings)) == 0
    facts = manifest(out, "distilled")
    assert facts["rows"] == 320
    assert facts["augmented"]["rows"] == 240
    assert 0.3 < facts["augmented"]["replaced"] / facts["augmented"]["words"] < 0.5
    assert [stage["steps"] for stage in facts["stages"]] == [20, 20]
    baseline = manifest(out, "baseline")
    assert baseline["rows"] == 80
    assert "augmented" not in baseline
    assert [stage["steps"] for stage in baseline["stages"]] == [40]
    reasons = json.loads((out / "report" / "report.json").read_text())["plan"]["reasons"]
    assert any("80 training rows become 320" in reason for reason in reasons)


def test_a_bare_teacher_with_its_language_head_finds_the_neighbours_itself(
    speller: Path, small: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    more = ["--method", "kd", "data.augment.copies=1", "--no-baseline"]
    assert main(words(speller, small, out, *more)) == 0
    # The teacher itself is fine-tuned on the rows as they are.
    assert manifest(out, "teacher")["rows"] == 80
    assert manifest(out, "distilled")["rows"] == 160


def test_other_settings_make_another_student(
    teacher_folder: Path, speller: Path, small: Path, tmp_path: Path
) -> None:
    found = []
    for p in (0.2, 0.9):
        out = tmp_path / f"out-{p}"
        design = ["design", "--teacher", str(teacher_folder), "--data", str(small)]
        student = tmp_path / "student"
        assert main([*design, "--layers", "2", "-o", str(student)]) == 0
        distil = ["distill", "--teacher", str(teacher_folder), "--student", str(student)]
        augment = [f"data.augment.model={speller}", "data.augment.copies=1", f"data.augment.p={p}"]
        settings = ["--data", str(small), "-o", str(out), "--method", "kd", "--max-steps", "3"]
        assert main([*distil, *settings, *augment]) == 0
        found.append(json.loads((out / "manifest.json").read_text()))
    assert found[0]["made_by"]["key"] != found[1]["made_by"]["key"]
    shares = [f["facts"]["augmented"]["replaced"] / f["facts"]["augmented"]["words"] for f in found]
    assert shares[0] == pytest.approx(0.2, abs=0.08)
    assert shares[1] == pytest.approx(0.9, abs=0.08)


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (["data.augment.copies=2"], "has no such head"),
        (["data.augment.model=nowhere"], "data.augment.model: nowhere: no such folder"),
        (["data.augment.copies=0"], "data.augment.copies"),
        (["data.augment.p=1.5"], "data.augment.p"),
    ],
)
def test_what_cannot_be_is_refused_before_anything_is_written(
    more: list[str], said: str, teacher_folder: Path, small: Path, tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    out = tmp_path / "out"
    assert main(words(teacher_folder, small, out, "--method", "kd", *more)) == 2
    assert said in capsys.readouterr().err
    assert not out.exists()


def test_rows_without_a_label_of_their_own_are_refused(
    speller: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    raw = tmp_path / "raw.txt"
    raw.write_text("\n".join(text for text, _ in sentences(40, seed=4)) + "\n")
    student = tmp_path / "student"
    data = ["--data", str(raw), "data.task=mask_lm", "data.augment.copies=1"]
    assert (
        main(["design", "--teacher", str(speller), *data, "--layers", "2", "-o", str(student)]) == 2
    )
    assert "is for mask_lm: a copy with other words" in capsys.readouterr().err
