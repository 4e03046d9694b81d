"""A teacher with another tokenizer than its student's, through the command line."""

import json
import math
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import (
    BertConfig,
    BertForMaskedLM,
    BertForSequenceClassification,
    BertForTokenClassification,
    BertTokenizerFast,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedTokenizerFast,
)

from tests.conftest import FILLERS, WORDS, make_teacher, sentences
from toolchain.__main__ import main
from toolchain.artifact import Artifact
from toolchain.data import tokenizing
from toolchain.models.loading import load_classifier, load_tokenizer
from toolchain.plan import make_plan
from toolchain.progress import Null, Progress
from toolchain.recipe import load_recipe
from toolchain.rundir import OneFolder, StepLog
from toolchain.teaching import Teaching

TOPICS = sorted(word for group in WORDS.values() for word in group)
LETTERS = "abcdefghijklmnopqrstuvwxyz"


def write_tokenizer(folder: Path) -> int:
    """Write a tokenizer that knows half of the words, under other numbers; return its size."""
    folder.mkdir(parents=True, exist_ok=True)
    words = sorted([*FILLERS, *TOPICS], reverse=True)[::2]
    pieces = [*(f"##{c}" for c in reversed(LETTERS)), *reversed(LETTERS)]
    vocab = ["[PAD]", *pieces, "[MASK]", "[SEP]", *words, "[CLS]", "[UNK]"]
    (folder / "vocab.txt").write_text("\n".join(vocab) + "\n", encoding="utf-8")
    BertTokenizerFast(str(folder / "vocab.txt"), model_max_length=128).save_pretrained(folder)
    return len(vocab)


def write_student(
    folder: Path,
    *,
    seed: int = 5,
    kind: type = BertForSequenceClassification,
    labels: dict[int, str] | None = None,
) -> Path:
    """Write an untrained classifier of 2 x 24 with 128 positions and a tokenizer of its own."""
    names = labels or dict(enumerate(sorted(WORDS)))
    config = BertConfig(
        vocab_size=write_tokenizer(folder), hidden_size=24, num_hidden_layers=2,
        num_attention_heads=4, intermediate_size=48, max_position_embeddings=128,
        initializer_range=0.1, id2label=names, label2id={n: i for i, n in names.items()},
    )  # fmt: skip
    torch.manual_seed(seed)
    kind(config).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def student(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_student(tmp_path_factory.mktemp("student"))


@pytest.fixture(scope="module")
def trained(
    encoder_folder: Path, task_folder: Path, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """A teacher that knows the task."""
    folder = tmp_path_factory.mktemp("trained") / "teacher"
    words = ["finetune", "--teacher", str(encoder_folder), "--data", str(task_folder)]
    quick = ["finetune.epochs=8", "train.lr=3e-3", "threads=1", "seed=1", "--json"]
    assert main([*words, "-o", str(folder), *quick]) == 0
    return folder


def distil(teacher: Path, student: Path, data: Path, out: Path, *more: str) -> dict[str, Any]:
    words = ["--teacher", str(teacher), "--student", str(student), "--data", str(data)]
    assert main(["distill", *words, "-o", str(out), "threads=1", "--json", *more]) == 0
    return dict(Artifact.open(out).facts)


def refused(
    capsys: pytest.CaptureFixture[str], teacher: Path, student: Path, data: Path, *more: str
) -> str:
    capsys.readouterr()
    words = ["--teacher", str(teacher), "--student", str(student), "--data", str(data)]
    assert main(["distill", *words, "-o", str(data / "refused"), "threads=1", *more]) == 2
    assert not (data / "refused").exists()
    return " ".join(capsys.readouterr().err.split())


def test_a_teachers_predictions_alone_teach_a_student_that_reads_other_tokens(
    trained: Path, student: Path, task_folder: Path, tmp_path: Path
) -> None:
    """No label is seen: whatever the student gets right it has from the teacher's reading."""
    facts = distil(
        trained, student, task_folder, tmp_path / "out", "--method", "kd",
        "method_options.kd.alpha=1", "train.epochs=12", "train.lr=5e-3",
    )  # fmt: skip
    assert facts["stages"][-1]["best_metric"] > 0.8
    assert facts["truncated"] == 0
    text = "please turn the radio on"
    own = load_tokenizer(student)(text)["input_ids"]
    assert load_tokenizer(tmp_path / "out")(text)["input_ids"] == own
    assert own != load_tokenizer(trained)(text)["input_ids"]
    # Evaluated in its own tokens: the weights that were saved give the figure that was noted.
    lines = [row.split("\t") for row in (task_folder / "dev.tsv").read_text().splitlines()[1:]]
    batch = load_tokenizer(student)([text for text, _ in lines], padding=True, return_tensors="pt")
    with torch.no_grad():
        answers = load_classifier(tmp_path / "out")(**batch).logits.argmax(-1).tolist()
    right = [sorted(WORDS)[a] == label for a, (_, label) in zip(answers, lines, strict=True)]
    assert np.mean(right) == pytest.approx(facts["stages"][-1]["best_metric"], abs=0.011)


def test_the_whole_road_judges_and_times_every_model_in_its_own_tokens(
    trained: Path, student: Path, task_folder: Path, tmp_path: Path
) -> None:
    words = ["--teacher", str(trained), "--student", str(student), "--data", str(task_folder)]
    quick = ["benchmark.min_runs=20", "benchmark.min_seconds=0.02", "benchmark.rounds=2",
             "benchmark.tokens=[16, 100]", "gates.agreement=0", "gates.cosine=0",
             "gates.max_drop=1", "--max-steps", "4", "--method", "kd", "threads=1"]  # fmt: skip
    out = tmp_path / "out"
    assert main(["compress", *words, "-o", str(out), "--json", *quick]) == 0
    report = json.loads((out / "report" / "report.json").read_text())
    facts = Artifact.open(trained).facts
    teacher = next(m for m in report["models"] if m["name"] == "teacher")
    best = facts["stages"][-1]["best_metric"]
    assert teacher["metric"]["value"] == pytest.approx(best, abs=0.011)
    # 100 tokens are more than the teacher's 64 positions: no length that only some can take.
    assert {entry["tokens"] for entry in teacher["latency"]} == {"task", 16}
    own = load_tokenizer(student)("turn the oven off")["input_ids"]
    assert load_tokenizer(out)("turn the oven off")["input_ids"] == own
    assert (out / "bundles" / "host" / "golden.jsonl").is_file()


@pytest.mark.parametrize("method", ["uld", "kd+rkd+rail_kd"])
def test_whatever_compares_whole_texts_goes_the_same_road(
    method: str, teacher_folder: Path, student: Path, task_folder: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    facts = distil(
        teacher_folder, student, task_folder, out, "--method", method, "--max-steps", "4"
    )
    (stage,) = facts["stages"]
    assert {name.split("/")[0] for name in stage["points"][0]["parts"]} == set(method.split("+"))
    assert all(math.isfinite(point["loss"]) for point in stage["points"])


def test_without_a_method_predictions_are_matched(
    teacher_folder: Path, student: Path, task_folder: Path, tmp_path: Path
) -> None:
    plan = planned(teacher_folder, student, task_folder, tmp_path)
    assert plan.recipe.method == "kd"
    said = " ".join(plan.reasons)
    assert "the tokenizers differ: predictions alone can be matched" in said
    assert f"teacher {teacher_folder} has another tokenizer than the student" in said
    # 64 positions and 128: each reads as much as it can.
    assert plan.max_tokens == plan.limit(str(student)) == 128
    assert plan.limit(str(teacher_folder)) == 64


def planned(teacher: Path, student: Path, data: Path, out: Path, *more: str):
    options = {"teacher": str(teacher), "data": {"path": str(data)}}
    recipe = load_recipe(None, {**options, "student": {"path": str(student)}}, [*more])
    return make_plan(recipe, out)


def test_each_model_reads_to_its_own_limit(
    teacher_folder: Path, student: Path, task_folder: Path, tmp_path: Path
) -> None:
    plan = planned(teacher_folder, student, task_folder, tmp_path, "data.max_tokens=100")
    assert plan.limit(str(student)) == 100
    assert plan.limit(str(teacher_folder)) == 64


def test_rows_are_tokenised_once_per_tokenizer(
    teacher_folder: Path, student: Path, task_folder: Path, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    """Train and dev for the student, train for the teachers apart: three times, however many."""
    calls: list[int] = []
    tokenize = tokenizing._encoded

    def counted(tokenizer, texts, texts_b, max_tokens):
        calls.append(len(texts))
        return tokenize(tokenizer, texts, texts_b, max_tokens)

    monkeypatch.setattr(tokenizing, "_encoded", counted)
    kin = write_student(tmp_path / "kin", seed=9)
    second = make_teacher(tmp_path / "second", head=True, seed=2)
    facts = distil(
        kin, student, task_folder, tmp_path / "out", "--method", "kd", "--max-steps", "3",
        f"teachers=[{teacher_folder}, {second}]",
    )  # fmt: skip
    assert calls == [480, 96, 480]
    parts = facts["stages"][0]["points"][0]["parts"]
    assert set(parts) == {"kd/soft", "kd/soft#2", "kd/soft#3", "kd/labels"}


class Killed(Exception):
    pass


class StopAt(Null):
    """Raises in the middle of the student's training."""

    def advance(self, task: str, done: int, total: int, **figures: object) -> None:  # noqa: ARG002
        if done == 7:
            raise Killed


def taught(plan_of: Callable[[], Any], output: Path, progress: Progress | None = None) -> Artifact:
    log = StepLog(OneFolder(output), progress or Null())
    Teaching(plan_of(), log).distill()
    return log.done["distilled"].artifact


@pytest.mark.parametrize("method", ["kd+rail_kd", "uld"])
def test_a_run_killed_anywhere_ends_as_if_it_had_not(
    method: str, teacher_folder: Path, student: Path, task_folder: Path, tmp_path: Path
) -> None:
    settings = ["threads=1", "max_steps=12", f"method={method}", "train.checkpoint_seconds=0"]

    def plan():
        return planned(teacher_folder, student, task_folder, tmp_path, *settings)

    whole = taught(plan, tmp_path / "whole")
    with pytest.raises(Killed):
        taught(plan, tmp_path / "cut", StopAt())
    cut = taught(plan, tmp_path / "cut")
    assert cut.files["model.safetensors"] == whole.files["model.safetensors"]
    assert cut.facts["stages"][0]["points"] == whole.facts["stages"][0]["points"]


def test_the_same_student_with_fewer_tokens_still_reads_its_teachers(
    teacher_folder: Path, task_folder: Path, tmp_path: Path
) -> None:
    """Its tokenizer file is another one, yet it cuts text as its teacher does."""
    small = tmp_path / "small"
    common = ["--teacher", str(teacher_folder), "--data", str(task_folder)]
    words = ["design", *common, "--layers", "2", "student.vocab=0.5", "--method", "tinybert"]
    assert main([*words, "-o", str(small)]) == 0
    plan = planned(teacher_folder, small, task_folder, tmp_path, "method=tinybert")
    assert plan.student.tokenizer == plan.teacher_spec.tokenizer == str(teacher_folder)
    facts = distil(
        teacher_folder, small, task_folder, tmp_path / "out", "--method", "tinybert",
        "--max-steps", "3",
    )  # fmt: skip
    assert [stage["stage"] for stage in facts["stages"]] == ["inter", "pred"]
    other = write_student(tmp_path / "other")
    assert planned(other, small, task_folder, tmp_path).student.tokenizer == str(small)
    distil(other, small, task_folder, tmp_path / "apart", "--method", "kd", "--max-steps", "3")
    distil(
        other, small, task_folder, tmp_path / "both", "--method", "kd", "--max-steps", "3",
        f"teachers=[{teacher_folder}]",
    )  # fmt: skip


@pytest.mark.parametrize(
    ("method", "term"),
    [("tinybert", "tinybert/emb"), ("minilm_v2", "minilm_v2/"), ("distilbert", "distilbert/"),
     ("ckd", "ckd/"), ("cka", "cka/")],
)  # fmt: skip
def test_terms_on_tokens_are_refused_in_the_plan(
    method: str, term: str, teacher_folder: Path, student: Path, task_folder: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    said = refused(capsys, teacher_folder, student, task_folder, "--method", method)
    assert f"term '{term}" in said
    assert f"the student reads the tokens of {student}, " in said
    assert f"the teacher those of {teacher_folder}" in said
    assert "use predictions (kd, uld), or pooled states" in said


def test_parts_that_exchange_activations_are_refused_in_the_plan(
    teacher_folder: Path, student: Path, task_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    said = refused(capsys, teacher_folder, student, task_folder, "--method", "theseus")
    assert "replace_modules: the teacher's blocks stand in for the student's" in said
    assert f"the student reads the tokens of {student}, " in said
    assert "use a method that exchanges no blocks, such as kd" in said


def test_a_student_without_a_head_is_refused(
    teacher_folder: Path, task_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bare = write_student(tmp_path / "bare", kind=BertForMaskedLM)
    said = refused(capsys, teacher_folder, bare, task_folder, "--method", "kd")
    assert "0 classes, the teacher's task is classify with 3" in said


def test_a_student_that_names_its_outputs_in_another_order_is_refused(
    teacher_folder: Path, task_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    names = dict(enumerate(sorted(WORDS, reverse=True)))
    other = write_student(tmp_path / "other", labels=names)
    said = refused(capsys, teacher_folder, other, task_folder, "--method", "kd")
    assert "its outputs are music, light, heat, those of the task heat, light, music" in said


def test_raw_text_is_read_by_each_model_in_its_own_tokens(
    teacher_folder: Path, student: Path, task_folder: Path, raw: Path, tmp_path: Path
) -> None:
    pooled = (
        'terms=[{"knowledge": "hidden", "transform": [{"pool": {"how": "mean"}}, "project"], '
        '"objective": "mse", "match": "last", "stage": "general"}]'
    )
    facts = distil(
        teacher_folder, student, task_folder, tmp_path / "out", "--method", "kd", pooled,
        f"data.raw={raw}", "--max-steps", "12", "train.lr=5e-3",
    )  # fmt: skip
    general, pred = facts["stages"]
    assert (general["stage"], pred["stage"]) == ("general", "pred")
    first, *_, last = (point["loss"] for point in general["points"])
    assert last < first


def test_tags_are_matched_by_sorted_predictions_word_by_word(
    encoder_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data, kind = tmp_path / "tags", {w: name for name, ws in WORDS.items() for w in ws}
    data.mkdir()
    rows = [text.split() for text, _ in sentences(80, seed=8)]
    for name, part in (("train", rows[:60]), ("dev", rows[60:])):
        tagged = [{"tokens": words, "tags": [kind.get(w, "O") for w in words]} for words in part]
        lines = "".join(json.dumps(row) + "\n" for row in tagged)
        (data / f"{name}.jsonl").write_text(lines, encoding="utf-8")
    tags = dict(enumerate(["O", *sorted(WORDS)]))
    student = write_student(tmp_path / "tagger", kind=BertForTokenClassification, labels=tags)
    teacher = tmp_path / "teacher"
    words = ["finetune", "--teacher", str(encoder_folder), "--data", str(data), "threads=1"]
    assert main([*words, "-o", str(teacher), "--max-steps", "4"]) == 0
    out = tmp_path / "out"
    facts = distil(teacher, student, data, out, "--method", "uld", "--max-steps", "3")
    assert all(math.isfinite(p["parts"]["uld/sorted"]) for p in facts["stages"][0]["points"])
    said = refused(capsys, teacher, student, data, "--method", "kd")
    assert "term 'kd/soft': it compares token by token" in said
    assert "seqkd" not in said


# Decoders


def decoder(folder: Path, tokenizer: Tokenizer, *, layers: int, width: int, seed: int) -> Path:
    """Write a tiny Llama with a tokenizer of these words."""
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="[PAD]", eos_token="[END]", unk_token="[UNK]",
        model_max_length=64,
    )  # fmt: skip
    fast.save_pretrained(folder)
    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=len(fast), hidden_size=width, intermediate_size=2 * width,
        num_hidden_layers=layers, num_attention_heads=4, num_key_value_heads=2,
        max_position_embeddings=64, bos_token_id=None, eos_token_id=1, pad_token_id=0,
    )  # fmt: skip
    LlamaForCausalLM(config).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def decoders(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A teacher that reads words, and a student that reads letters."""
    specials = ["[PAD]", "[END]", "[UNK]"]
    by_word = {token: i for i, token in enumerate([*specials, *FILLERS, *TOPICS])}
    words = Tokenizer(models.WordLevel(by_word, unk_token="[UNK]"))
    words.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    by_letter = {token: i for i, token in enumerate([*specials, *LETTERS])}
    letters = Tokenizer(models.BPE(by_letter, [], unk_token="[UNK]"))
    letters.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    root = tmp_path_factory.mktemp("decoders")
    return (
        decoder(root / "teacher", words, layers=3, width=32, seed=0),
        decoder(root / "student", letters, layers=2, width=16, seed=1),
    )


@pytest.fixture(scope="module")
def raw(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("raw") / "raw.txt"
    path.write_text("\n".join(text for text, _ in sentences(80, seed=4)) + "\n")
    return path


@pytest.fixture(scope="module")
def prompts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("prompts")
    rows = sentences(80, seed=6)
    for name, part in (("train", rows[:60]), ("dev", rows[60:])):
        lines = [json.dumps({"prompt": text, "answer": label}) for text, label in part]
        (folder / f"{name}.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return folder


def test_decoders_with_different_vocabularies_are_distilled_by_sorted_predictions(
    decoders: tuple[Path, Path], raw: Path, tmp_path: Path
) -> None:
    teacher, student = decoders
    plan = planned(teacher, student, raw, tmp_path, "data.task=causal_lm")
    assert plan.recipe.method == "uld"
    assert plan.recipe.data.pack is False
    assert "each text is a row" in " ".join(plan.reasons)
    facts = distil(
        teacher, student, raw, tmp_path / "out", "--method", "uld", "data.task=causal_lm",
        "--max-steps", "12", "train.lr=5e-3",
    )  # fmt: skip
    points = facts["stages"][0]["points"]
    assert set(points[0]["parts"]) == {"uld/sorted", "uld/labels"}
    first, last = (np.mean([p["loss"] for p in part]) for part in (points[:4], points[-4:]))
    assert last < first
    assert LlamaForCausalLM.from_pretrained(tmp_path / "out").config.vocab_size == 29
    assert load_tokenizer(tmp_path / "out")("lamp on")["input_ids"] == [14, 3, 15, 18, 17, 16]


def test_answers_to_prompts_are_compared_too(
    decoders: tuple[Path, Path], prompts: Path, tmp_path: Path
) -> None:
    teacher, student = decoders
    facts = distil(teacher, student, prompts, tmp_path / "out", "--method", "uld",
                   "--max-steps", "3")  # fmt: skip
    assert all(math.isfinite(p["parts"]["uld/sorted"]) for p in facts["stages"][0]["points"])


def test_a_teachers_answers_are_learned_in_the_students_tokens(
    decoders: tuple[Path, Path], prompts: Path, tmp_path: Path
) -> None:
    teacher, student = decoders
    facts = distil(teacher, student, prompts, tmp_path / "out", "--method", "seqkd+uld",
                   "--max-steps", "2")  # fmt: skip
    assert facts["rows"] == 60


def test_what_needs_the_same_tokens_of_decoders_is_refused(
    decoders: tuple[Path, Path], raw: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = Path(shutil.copytree(raw.parent, tmp_path / "data"))
    language = ["data.task=causal_lm", f"data.path={data / raw.name}"]
    said = refused(capsys, *decoders, data, *language, "--method", "kd")
    assert "term 'kd/soft': it compares token by token" in said
    assert "use uld, which compares sorted predictions, seqkd" in said
    said = refused(capsys, *decoders, data, *language, "--method", "uld", "data.pack=true")
    assert "data.pack is true, but blocks of full length hold other parts of the texts" in said
    said = refused(capsys, *decoders, data, *language, "--method", "gkd_onpolicy")
    assert "it compares token by token" in said


def test_a_decoder_does_not_teach_an_encoder_to_continue_text(
    decoders: tuple[Path, Path], student: Path, raw: Path, tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    data = Path(shutil.copytree(raw.parent, tmp_path / "data"))
    language = ["data.task=causal_lm", f"data.path={data / raw.name}", "--method", "uld"]
    said = refused(capsys, decoders[0], student, data, *language)
    assert "a bert model is none for causal_lm" in said
