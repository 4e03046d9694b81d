"""Sentence embeddings' whole road: raw texts, scored pairs, narrower students, stage by stage."""

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModel, AutoTokenizer

from tests.conftest import make_teacher, sentences
from tests.integration.test_tasks import LOOSE
from toolchain.__main__ import main
from toolchain.bundle.check import selftest
from toolchain.data.sources import load_task
from toolchain.data.tokenizing import tokenize_split
from toolchain.distill.evaluate import evaluate
from toolchain.metrics import score
from toolchain.models.checkpoint import inspect
from toolchain.models.loading import load_model, load_tokenizer
from toolchain.models.sentence import Sentence, read_sentence, write_sentence
from toolchain.recipe import Columns

KEPT = [word for word in LOOSE if word != "--no-baseline"]
QUICK = [*KEPT, "threads=1", "train.precision=fp32", "benchmark.tokens=[8]"]


def write_texts(folder: Path, *, scored: bool) -> Path:
    """Write texts one by one, or in pairs with a score: high where both are of one topic."""
    folder.mkdir()
    rows = sentences(240, seed=3)
    for name, part in (("train", rows[:160]), ("dev", rows[160:])):
        if scored:
            pairs = zip(part[::2], part[1::2], strict=True)
            lines = [f"{a}\t{b}\t{4 if x == y else 1}" for (a, x), (b, y) in pairs]
        else:
            lines = [text for text, _ in part]
        head = "text_a\ttext_b\tscore" if scored else "text"
        (folder / f"{name}.tsv").write_text("\n".join([head, *lines]) + "\n", encoding="utf-8")
    return folder


@pytest.fixture(scope="module")
def texts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_texts(tmp_path_factory.mktemp("embedding") / "texts", scored=False)


@pytest.fixture(scope="module")
def build(encoder_folder: Path, texts: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One finished run from a bare encoder."""
    out = tmp_path_factory.mktemp("embedding") / "build"
    words = ["compress", "--teacher", str(encoder_folder), "--data", str(texts), "-o", str(out)]
    learn = ["train.lr=3e-3", "train.epochs=12", "data.task=embed"]
    assert main([*words, "--layers", "2", *learn, *QUICK]) == 0
    return out


def test_every_file_of_the_road_is_there_and_rows_are_compared_by_cosine(build: Path) -> None:
    report = json.loads((build / "report" / "report.json").read_text())
    assert report["task"] == {
        "name": "texts", "metric": "spearman", "rows": {"train": 160, "dev": 80, "test": None}
    }  # fmt: skip
    models = {model["name"]: model for model in report["models"]}
    assert "baseline" not in models
    assert models["teacher"]["metric"]["value"] == pytest.approx(1)
    assert models["student"]["metric"]["value"] > 0.8
    exported, int8 = (models[f"student-{kind}"]["parity"] for kind in ("onnx", "int8"))
    assert exported["max_abs"] <= 1e-5
    assert (exported["unit"], exported["rows"], exported["agreement"]) == ("rows", 80, 1)
    assert 0.95 < int8["min_cosine"] <= int8["mean_cosine"] < 1
    gates = {gate["name"] for gate in report["gates"]}
    assert {"max_abs", "cosine", "max_drop"} <= gates
    # A vector decides nothing.
    assert "agreement" not in gates
    card = (build / "README.md").read_text()
    assert "library_name: sentence-transformers\npipeline_tag: sentence-similarity" in card
    assert "SentenceTransformer" in card
    assert "above 0.99 100.0 %" in (build / "report" / "report.html").read_text()


def test_pooling_is_in_the_graph_and_all_rows_of_the_last_block_are_computed(build: Path) -> None:
    graph = onnx.load(build / "onnx" / "model.onnx").graph
    (output,) = graph.output
    assert output.name == "sentence_embedding"
    assert [d.dim_param or d.dim_value for d in output.type.tensor_type.shape.dim] == ["batch", 32]
    facts = json.loads((build / ".run" / "student-onnx" / "manifest.json").read_text())["facts"]
    assert facts["task"] == "embed"
    assert facts["passes"]["first_row"] == 0


def test_the_folder_is_one_of_sentence_transformers_and_a_teacher_again(build: Path) -> None:
    assert read_sentence(build) == Sentence()
    found = inspect(str(build))
    assert (found.task, found.spec.layers) == ("embed", 2)


def test_sentence_transformers_gives_the_vectors_of_the_bundle(build: Path) -> None:
    package = pytest.importorskip("sentence_transformers", reason="not installed here")
    rows = [json.loads(x) for x in (build / "bundles/host/golden.jsonl").read_text().splitlines()]
    model = package.SentenceTransformer(str(build), device="cpu")
    found = model.encode([row["text"] for row in rows])
    if json.loads((build / "bundles/host/bundle.json").read_text())["precision"] == "fp32":
        np.testing.assert_allclose(found, [row["logits"] for row in rows], atol=1e-5)
    cosines = (found * np.array([row["logits"] for row in rows])).sum(1)
    assert cosines.min() > 0.95


def test_the_bundle_embeds_and_compares(build: Path) -> None:
    folder = build / "bundles" / "host"
    assert selftest(folder) == []
    ask = [sys.executable, "-I", str(folder / "embed.py"), "--json"]
    one, other = "turn the lamp on", "please set the radio"
    ran = subprocess.run([*ask, one, other], capture_output=True, check=True)
    first, second = (json.loads(line)["embedding"] for line in ran.stdout.splitlines())
    assert np.linalg.norm(first) == pytest.approx(1, abs=1e-5)
    ran = subprocess.run([*ask, "--compare", one, other], capture_output=True, check=True)
    answer = json.loads(ran.stdout)
    assert answer["similarity"] == pytest.approx(np.dot(first, second), abs=1e-5)


def test_the_stages_one_after_another(
    build: Path, texts: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    student, onnx_ = build / ".run" / "distilled", build / ".run" / "student-onnx"
    int8, where = tmp_path / "int8", ["--data", str(texts)]
    assert main(["quantize", str(onnx_), "-o", str(int8)]) == 0
    proof = ["--against", str(student), "-o", str(tmp_path / "proof")]
    assert main(["verify", str(onnx_), *where, *proof]) == 0, capsys.readouterr().err
    bundle = tmp_path / "bundle"
    assert main(["bundle", str(int8), *where, "-o", str(bundle)]) == 0
    assert selftest(bundle) == []


def test_a_narrower_student_learns_similarities_and_scores_judge_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    teacher = make_teacher(tmp_path / "teacher", head=False)
    write_sentence(teacher, Sentence(pooling="cls", max_tokens=48), width=32)
    student, out = tmp_path / "student", tmp_path / "out"
    # The teacher's folder says what the rows are for, how they are pooled, how far they are read.
    common = [
        "--teacher",
        str(teacher),
        "--data",
        str(write_texts(tmp_path / "pairs", scored=True)),
    ]
    shape = ["--layers", "2", "student.hidden=16", "-o", str(student)]
    assert main(["design", *common, *shape]) == 0
    assert "at most 48 tokens of a text are read" in " ".join(capsys.readouterr().err.split())
    learn = ["train.lr=3e-3", "train.precision=fp32", "threads=1", "--max-steps", "12"]
    assert main(["distill", *common, "--student", str(student), "-o", str(out), *learn]) == 0
    said = " ".join(capsys.readouterr().err.split())
    assert "method minilm_v2+similarities" in said
    assert "how alike the teacher makes" not in said
    assert read_sentence(out) == Sentence(pooling="cls", max_tokens=48)
    facts = json.loads((out / "manifest.json").read_text())["facts"]
    assert [stage["stage"] for stage in facts["stages"]] == ["inter", "pred"]
    assert facts["rows"] == 160
    assert -1 < facts["stages"][1]["best_metric"] < 1


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--method", "kd"], "a model of embeddings tells no outcomes apart"),
        (["--method", "finetune"], "learns from labels alone, which embeddings have not"),
        (["--method", "embeddings", "student.hidden=16", "student.init=random"], "width"),
        (["metric=cosine", "student.hidden=16"], "metric cosine needs equal widths"),
        (["metric=accuracy"], "metric accuracy does not fit the task embed"),
        (["finetune.lr=1e-3"], "a teacher of embeddings is used as it is"),
        (["data.task=mask_lm", "data.pooling=cls"], "nothing is pooled"),
    ],
)
def test_what_cannot_be_is_refused_before_any_weight_is_loaded(
    words: list[str], said: str, encoder_folder: Path, texts: Path, tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    asked = ["compress", "--teacher", str(encoder_folder), "--data", str(texts), "--dry-run"]
    task = [] if any("data.task" in word for word in words) else ["data.task=embed"]
    assert main([*asked, "-o", str(tmp_path / "out"), "--layers", "2", *task, *words]) == 2
    assert said in " ".join(capsys.readouterr().err.split())


def test_a_pooling_against_the_teachers_is_refused(
    build: Path, texts: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    asked = ["compress", "--teacher", str(build), "--data", str(texts), "--dry-run"]
    assert main([*asked, "-o", str(tmp_path / "out"), "data.pooling=max"]) == 2
    assert "was trained with mean" in " ".join(capsys.readouterr().err.split())


@pytest.mark.parametrize("method", ["rkd", "sp", "pkd", "tinybert"])
def test_methods_on_states_lose_their_terms_on_labels_and_nothing_else(
    method: str, encoder_folder: Path, texts: Path, tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    asked = ["compress", "--teacher", str(encoder_folder), "--data", str(texts), "--dry-run"]
    asked += ["-o", str(tmp_path / "out"), "--layers", "2", "data.task=embed", "--method", method]
    code = main(asked)
    said = " ".join("".join(capsys.readouterr()).split())
    if method in ("pkd", "tinybert"):
        # Their soft predictions are read of outcomes.
        assert (code, "tells no outcomes apart" in said) == (2, True)
    else:
        assert code == 0
        assert f"left out: {method}/labels" in said


def test_a_streamed_teacher_teaches_what_a_whole_one_does(
    build: Path, texts: Path, tmp_path: Path
) -> None:
    common = ["--teacher", str(build), "--data", str(texts)]
    student = tmp_path / "student"
    assert main(["design", *common, "--layers", "1", "-o", str(student)]) == 0
    learn = ["--student", str(student), "train.precision=fp32", "threads=1", "--max-steps", "4"]
    # Of a cache, states are kept in bf16 unless it is asked for more.
    for name, more in (("whole", []), ("streamed", ["placement.states=fp32"])):
        where = [f"placement.teacher={name}", "-o", str(tmp_path / name)]
        assert main(["distill", *common, *learn, *where, *more]) == 0
    whole, streamed = (
        load_file(tmp_path / name / "model.safetensors") for name in ("whole", "streamed")
    )
    assert not torch.equal(whole["encoder.layer.0.output.dense.weight"],
                           load_file(student / "model.safetensors")
                           ["encoder.layer.0.output.dense.weight"])  # fmt: skip
    for name, value in whole.items():
        torch.testing.assert_close(streamed[name], value, rtol=1e-4, atol=1e-5)


def test_a_real_encoder_embeds_real_pairs(shared: Path) -> None:
    source = shared / "models" / "minilm-l6-sst2"
    task = load_task(
        str(shared / "data" / "stsb"), columns=Columns(), teacher_labels=None, task="embed"
    )
    half = len(task.dev.texts) // 2
    some = [*range(64), *range(half, half + 64)]
    dev = replace(
        task.dev, texts=tuple(task.dev.texts[i] for i in some), labels=task.dev.labels[:64]
    )
    rows = tokenize_split(load_tokenizer(source), dev, task, max_tokens=128)
    # Its head for two classes is left behind.
    answers = evaluate(load_model(source, "embed"), rows)
    tokenizer, bare = AutoTokenizer.from_pretrained(source), AutoModel.from_pretrained(source)
    batch = tokenizer(list(dev.texts), padding=True, return_tensors="pt")
    with torch.no_grad():
        states = bare(**batch).last_hidden_state
    mask = batch["attention_mask"][..., None]
    expected = torch.nn.functional.normalize((states * mask).sum(1) / mask.sum(1)).numpy()
    np.testing.assert_allclose(answers.outputs.vectors, expected, atol=1e-5)
    assert 0.3 < score("spearman", answers.outputs, answers.labels) < 0.9
