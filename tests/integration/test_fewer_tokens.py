"""A student with a part of its teacher's tokens, from the recipe to the shipped files."""

import json
from pathlib import Path

import pytest
import torch
from tokenizers import Tokenizer
from transformers import AutoModelForSequenceClassification, BertConfig, BertForMaskedLM

from tests.conftest import sentences
from toolchain.__main__ import main
from toolchain.artifact import Artifact
from toolchain.models.loading import load_tokenizer
from toolchain.models.vocabulary import read_vocabulary

QUICK = ["--layers", "2", "--max-steps", "4", "--json", "threads=1", "benchmark.min_runs=20",
         "benchmark.min_seconds=0.02", "benchmark.rounds=2", "benchmark.tokens=[]",
         # Four steps of training decide nothing; whether the road holds is the question.
         "gates.agreement=0", "gates.cosine=0", "gates.max_drop=1"]  # fmt: skip


def compress(teacher: Path, data: Path, output: Path, *more: str) -> dict:
    words = ["--teacher", str(teacher), "--data", str(data), "-o", str(output)]
    assert main(["compress", *words, *QUICK, *more]) == 0
    return json.loads((output / "report" / "report.json").read_text())


@pytest.fixture(scope="module")
def language_model(tmp_path_factory: pytest.TempPathFactory, teacher_folder: Path) -> Path:
    """A bare tiny BERT with its language head."""
    folder = tmp_path_factory.mktemp("language")
    tokenizer = load_tokenizer(teacher_folder)
    tokenizer.save_pretrained(folder)
    torch.manual_seed(3)
    config = BertConfig(
        vocab_size=len(tokenizer), hidden_size=32, num_hidden_layers=4, num_attention_heads=4,
        intermediate_size=64, max_position_embeddings=64, initializer_range=0.1,
    )  # fmt: skip
    BertForMaskedLM(config).save_pretrained(folder)
    return folder


def test_half_the_tokens_ship_with_a_tokenizer_that_knows_it(
    teacher_folder: Path, task_folder: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    report = compress(teacher_folder, task_folder, out, "--method", "kd", "student.vocab=0.5")
    whole = len(load_tokenizer(teacher_folder))
    kept = round(whole / 2)
    said = f"keeps {kept} of {whole} tokens, those its texts use most: {(whole - kept) * 32:,}"
    assert any(said in reason for reason in report["plan"]["reasons"])
    model = AutoModelForSequenceClassification.from_pretrained(out)
    assert model.config.vocab_size == kept
    text = "please turn the lamp on"
    old, new = load_tokenizer(teacher_folder)(text), load_tokenizer(out)(text)
    vocabulary = read_vocabulary(out / ".run" / "student")
    assert vocabulary is not None
    assert new["input_ids"] == vocabulary.new_of_old[old["input_ids"]].tolist()
    on_device = Tokenizer.from_file(str(out / "bundles" / "host" / "tokenizer.json"))
    assert on_device.encode(text).ids == new["input_ids"]
    assert main(["compress", str(out / "recipe.yaml"), "-o", str(out), "--json"]) == 0


def test_glmd_compares_language_logits_over_the_kept_tokens(
    language_model: Path, task_folder: Path, tmp_path: Path
) -> None:
    raw = tmp_path / "raw.txt"
    raw.write_text("\n".join(text for text, _ in sentences(100, seed=9)) + "\n")
    out = tmp_path / "out"
    report = compress(
        language_model, task_folder, out, "--method", "glmd", "--no-baseline",
        "student.vocab=60", f"data.raw={raw}", "precisions=[fp32]",
    )  # fmt: skip
    stages = [curve["stage"] for curve in report["curves"] if curve["run"] == "distill"]
    assert stages == ["general", "pred"]
    facts = Artifact.open(out / ".run" / "distilled").facts
    losses = [point["loss"] for point in facts["stages"][0]["points"]]
    assert all(0 < loss < 100 for loss in losses)
    assert AutoModelForSequenceClassification.from_pretrained(out).config.vocab_size == 60


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        (["student.vocab=3"], "student.vocab keeps 3 tokens"),
        (["student.vocab=100000"], "student.vocab is 100000, the teacher has"),
        (["student.vocab=1.5"], "student.vocab is 1.5"),
        (["student.vocab=0.5", "student.init=teacher_copy"], "starts as a copy of the teacher"),
        (["student.vocab=-1"], "greater than 0"),
    ],
)
def test_a_vocabulary_that_cannot_be_is_refused(
    settings: list[str],
    sentence: str,
    teacher_folder: Path,
    task_folder: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    words = ["--teacher", str(teacher_folder), "--data", str(task_folder)]
    found = main(["compress", *words, "-o", str(tmp_path / "out"), *settings, "--method", "kd"])
    assert found == 2
    assert sentence in " ".join(capsys.readouterr().err.split())


def test_seqkd_wants_prompts(
    teacher_folder: Path, task_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["--teacher", str(teacher_folder), "--data", str(task_folder)]
    assert main(["compress", *words, "-o", str(tmp_path / "out"), "--method", "seqkd"]) == 2
    said = " ".join(capsys.readouterr().err.split())
    assert "method 'seqkd' has the teacher answer prompts" in said
