"""A tagger's whole road: by one command, and stage by stage."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForTokenClassification, AutoTokenizer

from tests.integration.test_tasks import LOOSE, STEPS, tagged, write_jsonl
from toolchain.__main__ import main
from toolchain.bundle.check import selftest


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_jsonl(tmp_path_factory.mktemp("tagging") / "data", tagged, train=120, dev=40)


@pytest.fixture(scope="module")
def build(encoder_folder: Path, data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One finished run from a bare encoder."""
    out = tmp_path_factory.mktemp("tagging") / "build"
    words = ["compress", "--teacher", str(encoder_folder), "--data", str(data), "-o", str(out)]
    learn = ["train.lr=3e-3", "finetune.lr=3e-3", "train.epochs=15", "finetune.epochs=15",
             "threads=1"]  # fmt: skip
    assert main([*words, "--layers", "2", *learn, *LOOSE, "benchmark.tokens=[8]"]) == 0
    return out


def test_every_file_of_the_road_is_there_and_the_figures_are_of_tokens(build: Path) -> None:
    report = json.loads((build / "report" / "report.json").read_text())
    assert report["task"]["metric"] == "entity_f1"
    models = {model["name"]: model for model in report["models"]}
    tokens = sum(len(words) for words in dev_tokens(build))
    for name in ("student-onnx", "student-int8"):
        assert models[name]["parity"]["unit"] == "tokens"
        assert models[name]["parity"]["rows"] == tokens
        assert models[name]["latency"]
    assert models["student-onnx"]["parity"]["max_abs"] <= 1e-4
    assert models["student"]["metric"]["value"] > 0.9
    assert models["student-onnx"]["metric"]["value"] == models["student"]["metric"]["value"]
    assert models["student-int8"]["file_bytes"] < models["student-onnx"]["file_bytes"]
    card = (build / "README.md").read_text()
    assert "pipeline_tag: token-classification" in card
    assert "AutoModelForTokenClassification.from_pretrained" in card
    assert f"on {tokens:,} tokens" in (build / "report" / "report.html").read_text()


def dev_tokens(build: Path) -> list[list[int]]:
    """The dev rows of the recipe in the student's tokens."""
    (line,) = (x for x in (build / "recipe.yaml").read_text().split("\n") if "path: /" in x)
    rows = (Path(line.split(": ")[1]) / "dev.jsonl").read_text().splitlines()
    words = [json.loads(row)["tokens"] for row in rows]
    return AutoTokenizer.from_pretrained(build)(words, is_split_into_words=True)["input_ids"]


def test_the_bundle_tags_words_with_their_places_as_transformers_does(build: Path) -> None:
    folder = build / "bundles" / "host"
    assert selftest(folder) == []
    text = "please turn the lamp off now the radio"
    ran = subprocess.run(
        [sys.executable, "-I", str(folder / "tag.py"), "--json", text],
        capture_output=True, check=True,
    )  # fmt: skip
    answer = json.loads(ran.stdout)
    words = answer["words"]
    assert [w["word"] for w in words] == text.split()
    assert all(text[w["start"] : w["end"]] == w["word"] for w in words)
    tags = {w["word"]: w["tag"] for w in words}
    assert (tags["lamp"], tags["radio"], tags["turn"]) == ("B-light", "B-music", "O")
    entities = [(e["label"], e["text"]) for e in answer["entities"]]
    assert entities == [("light", "lamp"), ("music", "radio")]
    tokenizer = AutoTokenizer.from_pretrained(build)
    model = AutoModelForTokenClassification.from_pretrained(build)
    batch = tokenizer([w["word"] for w in words], is_split_into_words=True, return_tensors="pt")
    with torch.no_grad():
        found = model(**batch).logits[0].argmax(-1)
    first = {word: i for i, word in reversed(list(enumerate(batch.word_ids()))) if word is not None}
    expected = [model.config.id2label[int(found[first[i]])] for i in range(len(words))]
    assert [w["tag"] for w in words] == expected


def test_the_stages_one_after_another(
    build: Path, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    student, onnx = build / ".run" / "distilled", build / ".run" / "student-onnx"
    int8, where = tmp_path / "int8", ["--data", str(data)]
    facts = json.loads((onnx / "manifest.json").read_text())["facts"]
    assert facts["task"] == "tag"
    assert main(["quantize", str(onnx), "-o", str(int8)]) == 0
    proof = ["--against", str(student), "-o", str(tmp_path / "proof")]
    assert main(["verify", str(onnx), *where, *proof]) == 0, capsys.readouterr().err
    assert "tokens" in capsys.readouterr().err
    timed = ["benchmark", str(onnx), str(int8), "--seconds", "0.02", "-o", str(tmp_path / "t")]
    assert main([*timed, *where]) == 0
    bundle = tmp_path / "bundle"
    assert main(["bundle", str(int8), *where, "-o", str(bundle)]) == 0
    assert selftest(bundle) == []
    about = json.loads((bundle / "bundle.json").read_text())
    assert (about["task"], about["program"]["script"]) == ("tag", "tag.py")


def test_a_model_of_another_kind_is_refused(
    build: Path, task_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["--against", str(build), "--data", str(task_folder), "-o", str(tmp_path / "out")]
    assert main(["verify", str(build), *words]) == 2
    assert capsys.readouterr().err


def test_a_tagger_is_trained_and_distilled_by_stages(
    encoder_folder: Path, data: Path, tmp_path: Path
) -> None:
    common = ["--data", str(data), *STEPS]
    teacher, student, out = (str(tmp_path / n) for n in ("teacher", "student", "out"))
    assert main(["finetune", "--teacher", str(encoder_folder), "-o", teacher, *common]) == 0
    shape = ["--data", str(data), "--layers", "2", "-o", student]
    assert main(["design", "--teacher", teacher, *shape]) == 0
    ends = ["--teacher", teacher, "--student", student, "-o", out]
    assert main(["distill", *ends, "--method", "kd+minilm_v2", *common]) == 0
    assert json.loads((tmp_path / "out" / "config.json").read_text())["architectures"] == [
        "BertForTokenClassification"
    ]
