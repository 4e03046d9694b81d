"""Students whose modules change while they train, through the command line."""

import json
from pathlib import Path

import pytest

from tests.integration.test_methods_end_to_end import compress, stages


def parameters(report: dict, name: str) -> int:
    return next(model["parameters"] for model in report["models"] if model["name"] == name)


def test_theseus_trains_a_student_of_ordinary_shape(
    teacher_folder: Path, task_folder: Path, tmp_path: Path
) -> None:
    report = compress(
        teacher_folder, task_folder, tmp_path / "out", "--layers", "3", "--method", "theseus"
    )
    assert stages(report) == ["pred"]
    assert report["plan"]["init"] == "teacher_first_k"
    assert report["shipped"]["host"] is not None
    config = json.loads((tmp_path / "out" / "config.json").read_text())
    assert config["num_hidden_layers"] == 3


def test_cofi_ships_a_smaller_model_whose_shape_training_decided(
    teacher_folder: Path, task_folder: Path, tmp_path: Path
) -> None:
    report = compress(
        teacher_folder, task_folder, tmp_path / "out", "--method", "cofi",
        "method_options.cofi.sparsity=0.5",
    )  # fmt: skip
    assert report["plan"]["init"] == "teacher_copy"
    config = json.loads((tmp_path / "out" / "config.json").read_text())
    shape = report["plan"]["student"]
    assert (shape["layers"], shape["width"], shape["heads"], shape["ffn"]) == (
        config["num_hidden_layers"],
        config["hidden_size"],
        config["num_attention_heads"],
        config["intermediate_size"],
    )
    assert parameters(report, "student") < 0.8 * parameters(report, "teacher")
    assert parameters(report, "student-onnx") == parameters(report, "student")
    assert report["shipped"]["host"] is not None
    from transformers import AutoModelForSequenceClassification

    model = AutoModelForSequenceClassification.from_pretrained(tmp_path / "out")
    assert sum(p.numel() for p in model.parameters()) == parameters(report, "student")


def test_a_mobilebert_student_goes_the_whole_road(
    teacher_folder: Path, task_folder: Path, tmp_path: Path
) -> None:
    report = compress(
        teacher_folder, task_folder, tmp_path / "out", "--method", "mobilebert",
        "student.family=mobilebert", "student.inner=8", "student.ffn=16",
    )  # fmt: skip
    assert report["plan"]["init"] == "random"
    assert report["plan"]["student"]["family"] == "mobilebert"
    assert report["shipped"]["host"] is not None
    assert any("mobilebert" in reason for reason in report["plan"]["reasons"])


@pytest.mark.parametrize(("words", "said"), [
    (["--method", "cofi", "--layers", "2"], "student.layers is 2"),
    (["--method", "cofi", "method_options.cofi.sparsity=1.5"], "l0_masks"),
    (["--method", "theseus", "--hidden", "16"], "no layer can be copied"),
    (["--method", "theseus+minilm_v2@1", "--layers", "2"], ""),
    (["--method", "theseus+sid", "--layers", "2"], "do not go together"),
    (["student.family=gpt2"], "student.family"),
])  # fmt: skip
def test_what_surgery_cannot_do_is_refused_before_it_starts(
    teacher_folder: Path,
    task_folder: Path,
    tmp_path: Path,
    words: list[str],
    said: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    from toolchain.__main__ import main

    common = ["--teacher", str(teacher_folder), "--data", str(task_folder)]
    code = main(["compress", *common, "-o", str(tmp_path / "out"), "--dry-run", *words])
    assert code == (2 if said else 0)
    assert said in capsys.readouterr().err
