"""Every task through the command line: teachers made, students distilled, bundles written."""

import json
import math
import random
from pathlib import Path

import pytest
import torch
from transformers import BertConfig, BertForMaskedLM, LlamaConfig, LlamaForCausalLM

from tests.conftest import FILLERS, WORDS, make_teacher, sentences
from toolchain.__main__ import main

STEPS = ["--max-steps", "6", "threads=1", "--json"]
LOOSE = ["benchmark.min_runs=20", "benchmark.min_seconds=0.02", "benchmark.rounds=2",
         "benchmark.tokens=[]", "gates.agreement=0", "gates.cosine=0", "gates.max_drop=100",
         # Six steps of training decide nothing; whether the road holds is the question.
         "--no-baseline"]  # fmt: skip


def write_jsonl(folder: Path, make, **counts: int) -> Path:
    folder.mkdir()
    for seed, (name, count) in enumerate(counts.items()):
        generator = random.Random(seed)
        rows = [json.dumps(make(generator)) for _ in range(count)]
        (folder / f"{name}.jsonl").write_text("\n".join(rows) + "\n", encoding="utf-8")
    return folder


def sentence(generator: random.Random) -> list[str]:
    return generator.choices([*FILLERS, *(w for ws in WORDS.values() for w in ws)], k=7)


def labelled(generator: random.Random) -> dict[str, object]:
    words = sentence(generator)
    found = [name for name, group in WORDS.items() if set(group) & set(words)]
    return {"text": " ".join(words), "labels": found}


def scored(generator: random.Random) -> dict[str, object]:
    words = sentence(generator)
    topical = sum(w in group for w in words for group in WORDS.values())
    return {"text": " ".join(words), "score": topical / 2}


def tagged(generator: random.Random) -> dict[str, object]:
    words = sentence(generator)
    of = {w: f"B-{name}" for name, group in WORDS.items() for w in group}
    return {"tokens": words, "tags": [of.get(w, "O") for w in words]}


def run(*words: str) -> dict[str, object]:
    assert main(list(words)) == 0
    return {}


@pytest.mark.parametrize(
    ("make", "task", "metric"),
    [(labelled, "multi_label", "micro_f1"), (scored, "regress", "pearson")],
    ids=["multi_label", "regress"],
)
def test_tasks_with_one_answer_per_row_go_the_whole_road(
    make, task: str, metric: str, encoder_folder: Path, tmp_path: Path
) -> None:
    data = write_jsonl(tmp_path / "data", make, train=120, dev=40)
    out = tmp_path / "out"
    run("compress", "--teacher", str(encoder_folder), "--data", str(data), "-o", str(out),
        "--layers", "2", *STEPS, *LOOSE)  # fmt: skip
    recipe = (out / "recipe.yaml").read_text()
    assert f"metric: {metric}" in recipe
    about = json.loads((out / "bundles" / "host" / "bundle.json").read_text())
    assert about["task"] == task
    assert (out / "bundles" / "host").is_dir()


@pytest.fixture(scope="module")
def masked_teacher(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny BERT saved with its masked-language head."""
    folder = make_teacher(tmp_path_factory.mktemp("masked"), head=False)
    config = BertConfig.from_pretrained(folder)
    torch.manual_seed(0)
    BertForMaskedLM(config).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def raw(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("raw") / "raw.txt"
    path.write_text("\n".join(text for text, _ in sentences(80, seed=4)) + "\n")
    return path


def test_a_general_stage_distils_the_language_head(
    masked_teacher: Path, task_folder: Path, raw: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    run("compress", "--teacher", str(masked_teacher), "--data", str(task_folder), "-o", str(out),
        "--layers", "2", "--method", "distilbert", f"data.raw={raw}", *STEPS, *LOOSE)  # fmt: skip
    report = json.loads((out / "report" / "report.json").read_text())
    assert [c["stage"] for c in report["curves"] if c["run"] == "distill"] == ["general", "pred"]
    parts = next(c for c in report["curves"] if c["stage"] == "general")["points"]["parts"]
    assert {"distilbert/soft", "distilbert/labels"} <= set(parts)


def test_mobilebert_learns_block_for_block_and_then_the_language_head(
    masked_teacher: Path, task_folder: Path, raw: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    run("compress", "--teacher", str(masked_teacher), "--data", str(task_folder), "-o", str(out),
        "--layers", "4", "--method", "mobilebert", f"data.raw={raw}", "--max-steps", "8",
        "method_options.mobilebert.stage=general", "method_options.mobilebert.blocks=0.5",
        *STEPS[2:], *LOOSE)  # fmt: skip
    report = json.loads((out / "report" / "report.json").read_text())
    curves = [c for c in report["curves"] if c["run"] == "distill"]
    assert [c["stage"] for c in curves] == ["general", "pred"]
    parts = curves[0]["points"]["parts"]
    layers, soft = parts["mobilebert/features"], parts["mobilebert/soft"]
    assert len(layers) == len(soft) == 8
    assert [value > 0 for value in layers] == [True] * 4 + [False] * 4
    assert [value > 0 for value in soft] == [False] * 4 + [True] * 4


def test_a_general_stage_without_the_teachers_language_head_is_refused(
    encoder_folder: Path, task_folder: Path, raw: Path, tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    words = ["compress", "--teacher", str(encoder_folder), "--data", str(task_folder),
             "-o", str(tmp_path / "out"), "--method", "distilbert", f"data.raw={raw}"]  # fmt: skip
    assert main(words) == 2
    assert "reads the teacher's language head in stage general" in capsys.readouterr().err


def test_a_masked_language_model_is_distilled_without_any_label(
    masked_teacher: Path, raw: Path, tmp_path: Path
) -> None:
    student, out = tmp_path / "student", tmp_path / "out"
    data = ["--data", str(raw), "data.task=mask_lm", "data.max_tokens=32"]
    run("design", "--teacher", str(masked_teacher), *data, "--layers", "2", "-o", str(student))
    run("distill", "--teacher", str(masked_teacher), "--student", str(student), "-o", str(out),
        "--method", "kd+tinybert", *data, *STEPS)  # fmt: skip
    facts = json.loads((out / "manifest.json").read_text())["facts"]
    assert [s["stage"] for s in facts["stages"]] == ["inter", "pred"]
    assert facts["stages"][-1]["best_metric"] is not None


def test_a_causal_language_model_is_distilled(
    encoder_folder: Path, raw: Path, tmp_path: Path
) -> None:
    from transformers import PreTrainedTokenizerFast

    teacher = tmp_path / "teacher"
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_file=str(encoder_folder / "tokenizer.json"), pad_token="[PAD]", eos_token="[SEP]",
        bos_token="[CLS]", unk_token="[UNK]", model_max_length=64,
    )  # fmt: skip
    tokenizer.save_pretrained(teacher)
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(tokenizer), hidden_size=32, intermediate_size=64, num_hidden_layers=4,
        num_attention_heads=4, num_key_value_heads=2, max_position_embeddings=64,
        bos_token_id=2, eos_token_id=3, pad_token_id=0, tie_word_embeddings=True,
    )  # fmt: skip
    LlamaForCausalLM(config).save_pretrained(teacher)
    student, out = tmp_path / "student", tmp_path / "out"
    data = ["--data", str(raw), "data.task=causal_lm", "data.max_tokens=32"]
    run("design", "--teacher", str(teacher), *data, "--layers", "2", "-o", str(student))
    run("distill", "--teacher", str(teacher), "--student", str(student), "-o", str(out),
        "--method", "skl+tinybert", *data, *STEPS)  # fmt: skip
    facts = json.loads((out / "manifest.json").read_text())["facts"]
    points = facts["stages"][-1]["points"]
    assert all(math.isfinite(point["loss"]) for point in points)
    assert facts["stages"][-1]["evals"][-1]["metric"] > 0
