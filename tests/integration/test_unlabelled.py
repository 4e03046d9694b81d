"""Texts without labels on the whole road: who learns from them, how long, and what is refused."""

import json
from pathlib import Path

import pytest

from tests.conftest import sentences
from tests.integration.test_augment import manifest, words, write_task
from toolchain.__main__ import main


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A task, and beside it texts, of which ten are those of its dev split."""
    folder = tmp_path_factory.mktemp("small")
    rows = write_task(folder)
    further = [*(text for text, _ in sentences(400, seed=7)), *(text for text, _ in rows[80:90])]
    folder.with_name("further.txt").write_text("\n".join(further) + "\n")
    return folder


def further(small: Path) -> str:
    return f"data.unlabelled={small.with_name('further.txt')}"


def test_students_learn_from_them_and_the_baseline_from_labels_alone(
    teacher_folder: Path, small: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    assert main(words(teacher_folder, small, out, "--method", "tinybert", further(small))) == 0
    report = json.loads((out / "report" / "report.json").read_text())
    known = {line.split("\t")[0] for s in ("train", "dev")
             for line in (small / f"{s}.tsv").read_text().splitlines()[1:]}  # fmt: skip
    texts = set(small.with_name("further.txt").read_text().splitlines())
    count = len(texts - known)
    assert count > 200
    assert any(f"{count} texts of" in reason for reason in report["plan"]["reasons"])
    facts = manifest(out, "distilled")
    assert facts["rows"] == 80 + count
    assert sum(facts["unlabelled"]["said"].values()) == facts["unlabelled"]["rows"] == count
    steps = -(-(80 + count) // 16)
    assert [stage["steps"] for stage in facts["stages"]] == [steps, steps]
    baseline = manifest(out, "baseline")
    assert baseline["rows"] == 80
    assert "unlabelled" not in baseline
    assert [stage["steps"] for stage in baseline["stages"]] == [2 * steps]


def test_a_bare_teacher_is_fine_tuned_on_labels_before_it_gives_any(
    encoder_folder: Path, small: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    more = ["--method", "kd", "--no-baseline", further(small)]
    assert main(words(encoder_folder, small, out, *more)) == 0
    assert manifest(out, "teacher")["rows"] == 80
    assert manifest(out, "distilled")["rows"] > 280


def test_other_texts_make_another_student_and_the_same_ones_make_none(
    teacher_folder: Path, small: Path, tmp_path: Path
) -> None:
    student = tmp_path / "student"
    given = ["--teacher", str(teacher_folder), "--data", str(small)]
    assert main(["design", *given, "--layers", "2", "-o", str(student)]) == 0
    texts = tmp_path / "texts.tsv"
    keys = []
    for name, lines in (
        ("a", ["new one"]),
        ("b", ["new one", "new two"]),
        ("b", ["new one", "new two"]),
    ):
        texts.write_text("\n".join(["text", *lines]) + "\n")
        out = tmp_path / name
        settings = ["-o", str(out), "--method", "kd", "--max-steps", "3"]
        distil = ["distill", *given, "--student", str(student), *settings]
        assert main([*distil, f"data.unlabelled={texts}"]) == 0
        keys.append(json.loads((out / "manifest.json").read_text())["made_by"]["key"])
    assert keys[0] != keys[1] == keys[2]


def test_a_cache_holds_what_the_teacher_gives_for_them(
    teacher_folder: Path, small: Path, tmp_path: Path
) -> None:
    given = ["--teacher", str(teacher_folder), "--data", str(small)]
    student, cache, out = (tmp_path / name for name in ("student", "cache", "out"))
    assert main(["design", *given, "--layers", "2", "-o", str(student)]) == 0
    ends = [*given, "--student", str(student), "--method", "kd", further(small), "threads=1"]
    assert main(["cache", *ends, "-o", str(cache)]) == 0
    read = ["--cache", str(cache), "train.epochs=1", "-o", str(out)]
    assert main(["distill", *ends, *read]) == 0
    assert json.loads((out / "manifest.json").read_text())["facts"]["rows"] > 280


def test_what_cannot_be_is_refused_before_anything_is_written(
    teacher_folder: Path, small: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    lines = tmp_path / "lines.txt"
    lines.write_text("\n".join(text for text, _ in sentences(40, seed=4)) + "\n")
    for more, said in (
        (["data.unlabelled=nowhere.txt"], "nowhere.txt: no such file or folder"),
        ([f"data.unlabelled={small / 'dev.tsv'}"], "every text of it is among those of"),
        ([further(small), "placement.teacher=streamed"], "placement.teacher=streamed"),
    ):
        assert main(words(teacher_folder, small, out, "--method", "kd", *more)) == 2
        assert said in capsys.readouterr().err
        assert not out.exists()
    causal = ["design", "--teacher", str(teacher_folder), "--data", str(lines), "data.task=mask_lm"]
    assert main([*causal, "--layers", "2", "-o", str(out), f"data.unlabelled={lines}"]) == 2
    said = capsys.readouterr().err
    assert "mask_lm" in said
    assert not out.exists()
