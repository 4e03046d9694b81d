"""Labels of which several may hold, and scores, through export, quantisation, proof and bundle."""

import json
import random
from pathlib import Path

import pytest

from tests.conftest import FILLERS, WORDS, make_teacher
from toolchain.__main__ import main
from toolchain.bundle.check import selftest


def sentences(count: int) -> list[str]:
    generator = random.Random(3)
    topical = [word for words in WORDS.values() for word in words]
    found: dict[str, None] = {}
    while len(found) < count:
        words = generator.choices([*FILLERS, *topical], k=generator.randint(2, 9))
        found[" ".join(words)] = None
    return list(found)


@pytest.fixture(params=["multi_label", "regress"])
def made(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[str, Path, Path]:
    """A task, its data, and a tiny model for it."""
    import torch
    from transformers import BertConfig, BertForSequenceClassification

    task, model, data = request.param, tmp_path / "model", tmp_path / "data"
    make_teacher(model, head=False)
    config = BertConfig.from_pretrained(model)
    config.num_labels = 3 if task == "multi_label" else 1
    if task == "multi_label":
        config.problem_type = "multi_label_classification"
        config.id2label = dict(enumerate(sorted(WORDS)))
        config.label2id = {name: i for i, name in enumerate(sorted(WORDS))}
    else:
        config.problem_type = "regression"
    torch.manual_seed(1)
    BertForSequenceClassification(config).save_pretrained(model)
    data.mkdir()
    rows = []
    for text in sentences(160):
        on = [name for name, words in WORDS.items() if set(words) & set(text.split())]
        score = len(text.split()) / 2
        rows.append(
            {"text": text, **({"labels": on} if task == "multi_label" else {"score": score})}
        )
    for name, part in (("train", rows[:80]), ("dev", rows[80:])):
        lines = "".join(json.dumps(row) + "\n" for row in part)
        (data / f"{name}.jsonl").write_text(lines, encoding="utf-8")
    return task, data, model


def test_a_model_of_another_task_is_exported_proved_and_bundled(
    made: tuple[str, Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    task, data, model = made
    onnx, int8, proof = tmp_path / "onnx", tmp_path / "int8", tmp_path / "proof"
    assert main(["export", str(model), "-o", str(onnx)]) == 0
    words = ["--against", str(model), "--data", str(data), "-o", str(proof)]
    assert main(["verify", str(onnx), *words]) == 0, capsys.readouterr().err
    found = json.loads((proof / "verify.json").read_text(encoding="utf-8"))
    metric = found["metrics"]["model"]
    assert metric["name"] == {"multi_label": "micro_f1", "regress": "pearson"}[task]
    assert metric["value"] == pytest.approx(found["metrics"]["parent"]["value"], abs=1e-4)
    assert metric["ci95"][0] < metric["value"] < metric["ci95"][1]
    assert found["parities"]["model"]["agreement"] == 1
    assert main(["quantize", str(onnx), "-o", str(int8)]) == 0
    bundle = tmp_path / "bundle"
    assert main(["bundle", str(int8), "--data", str(data), "-o", str(bundle)]) == 0
    assert selftest(bundle) == []
    about = json.loads((bundle / "bundle.json").read_text(encoding="utf-8"))
    assert (about["task"], about["precision"]) == (task, "int8")


def test_data_for_another_task_are_refused_in_one_sentence(
    teacher_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = tmp_path / "data"
    data.mkdir()
    for name in ("train", "dev"):
        row = {"prompt": "turn on the lamp", "answer": "now"}
        (data / f"{name}.jsonl").write_text(json.dumps(row) + "\n", encoding="utf-8")
    words = ["--against", str(teacher_folder), "--data", str(data), "-o", str(tmp_path / "out")]
    assert main(["verify", str(teacher_folder), *words]) == 2
    said = " ".join(capsys.readouterr().err.split())
    assert "its model is for classify" in said
    assert "holds rows for causal_lm" in said
    assert not (tmp_path / "out").exists()
