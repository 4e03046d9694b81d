"""Every requirement of a method violated once: exit code 2 and a sentence with a way out."""

from pathlib import Path

import pytest
import torch
from transformers import DebertaV2Config, DebertaV2ForSequenceClassification

from tests.conftest import WORDS, make_teacher
from toolchain.__main__ import main


@pytest.fixture(scope="module")
def other_vocabulary(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A teacher whose tokenizer has one more word."""
    folder = make_teacher(tmp_path_factory.mktemp("other"), head=True)
    (folder / "tokenizer.json").unlink()
    vocab = (folder / "vocab.txt").read_text() + "extra\n"
    (folder / "vocab.txt").write_text(vocab)
    from transformers import AutoConfig, BertForSequenceClassification, BertTokenizerFast

    BertTokenizerFast(str(folder / "vocab.txt")).save_pretrained(folder)
    config = AutoConfig.from_pretrained(folder)
    config.vocab_size += 1
    BertForSequenceClassification(config).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def deberta(tmp_path_factory: pytest.TempPathFactory, teacher_folder: Path) -> Path:
    """A tiny DeBERTa, whose attention scores are not queries times keys alone."""
    folder = tmp_path_factory.mktemp("deberta")
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (folder / name).write_bytes((teacher_folder / name).read_bytes())
    torch.manual_seed(0)
    config = DebertaV2Config(
        vocab_size=93, hidden_size=32, num_hidden_layers=4, num_attention_heads=4,
        intermediate_size=64, max_position_embeddings=64, relative_attention=True,
        pos_att_type=["c2p", "p2c"], position_buckets=8, norm_rel_ebd="layer_norm",
        share_att_key=True, type_vocab_size=0, id2label=dict(enumerate(sorted(WORDS))),
        label2id={name: i for i, name in enumerate(sorted(WORDS))},
    )  # fmt: skip
    DebertaV2ForSequenceClassification(config).save_pretrained(folder)
    return folder


CASES = {
    "equal heads": (
        ["--method", "tinybert", "--layers", "2", "--heads", "2", "student.init=random"],
        "the student has 2 heads, the teacher 4",
        "give the student 4 heads, or use minilm_v2",
    ),
    "equal width": (
        ["--method", "pkd", "--layers", "2", "--hidden", "16", "student.init=random"],
        "the student has 16, the teacher 32",
        "add a projection",
    ),
    "equal depth": (
        ["--method", "mobilebert", "--layers", "2"],
        "the student has 2, the teacher 4",
        "give the student 4 layers",
    ),
    "no deeper": (
        ["--method", "pkd", "--layers", "5", "--hidden", "16", "student.init=random"],
        "the student has 5 layers, the teacher only 4 to match",
        "give the student fewer layers",
    ),
    "decoder": (
        ["--method", "gkd_onpolicy", "--layers", "2"],
        "student_generate",
        "use causal language models",
    ),
    "two teachers": (
        ["--method", "uncertainty", "--layers", "2"],
        "needs 2 teachers, the recipe names 1",
        "name the others: teachers=[DIR, ...]",
    ),
    "assistant": (["--method", "takd", "--layers", "2"], "assistant", "layers"),
    "two surgeries": (
        ["--method", "theseus+cofi"],
        "cofi and theseus both set the surgery",
        "use one of them",
    ),
    "two operators": (
        ["--method", "diito+lrc_bert", "--layers", "2"],
        "both change the batch",
        "use one of them",
    ),
    "all weights zero": (
        ["--method", "kd@0", "--layers", "2"],
        "the weights of all terms are zero",
        "",
    ),
    "schedule ends before it starts": (
        ["--layers", "2", 'terms=[{"knowledge": "logits", "objective": "kl", '
         '"schedule": {"linear": {"start": 0.0, "end": 1.0, "begins": 0.8, "ends": 0.2}}}]'],
        "it runs from 0.8 to 0.2 of the stage",
        "expected 0 <= start < end <= 1",
    ),
}  # fmt: skip


def refused(words: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    assert main(["compress", "--dry-run", *words]) == 2
    return " ".join(capsys.readouterr().err.split())


@pytest.mark.parametrize("name", CASES)
def test_a_requirement_that_is_not_met_is_refused_with_a_way_out(
    name: str, teacher_folder: Path, task_folder: Path, tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    words, problem, way_out = CASES[name]
    out = tmp_path / "out"
    common = ["--teacher", str(teacher_folder), "--data", str(task_folder), "-o", str(out)]
    said = refused([*common, *words], capsys)
    assert problem in said
    assert way_out in said
    assert not out.exists()


def test_teachers_of_two_vocabularies_are_refused_by_terms_on_tokens_naming_both(
    teacher_folder: Path, other_vocabulary: Path, task_folder: Path, tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    said = refused(
        ["--teacher", str(teacher_folder), "--data", str(task_folder), "-o", str(tmp_path / "o"),
         "--layers", "2", "--method", "tinybert", f'teachers=["{other_vocabulary}"]'],
        capsys,
    )  # fmt: skip
    assert str(teacher_folder) in said
    assert str(other_vocabulary) in said


def test_knowledge_a_family_does_not_give_is_refused_with_the_reason(
    deberta: Path, task_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    common = ["--teacher", str(deberta), "--data", str(task_folder), "-o", str(tmp_path / "o")]
    said = refused([*common, "--layers", "2", "--method", "tinybert"], capsys)
    assert "reads attn_scores, which a deberta_v2 model does not give" in said
    assert "use terms on q, k, v, hidden states or predictions" in said
    assert main(["compress", "--dry-run", *common, "--layers", "2", "--method", "minilm_v2"]) == 0


def test_a_third_partys_method_is_listed_explained_and_trained(
    teacher_folder: Path, task_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    site = tmp_path / "site"
    info = site / "acme_distill-1.0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: acme-distill\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[toolchain.methods]\nacme = acme_distill\n")
    (site / "acme_distill.py").write_text(
        '"""Acme: the mean square of logits (Acme 2026)."""\n'
        "from dataclasses import dataclass\n"
        "from toolchain.distill import extract, objectives, reduction\n"
        "from toolchain.distill.term import Method, Term, method\n\n"
        '@method("acme")\n@dataclass(frozen=True, kw_only=True)\n'
        'class Acme(Method):\n    """L = |z_S - z_T|^2."""\n\n    scale: float = 1.0\n\n'
        "    def terms(self):\n"
        "        mean = reduction.mean_feat_mean_logits\n"
        '        return (Term("logits", extract.logits, objectives.MSE(), mean,\n'
        "                     weight=self.scale),)\n"
    )
    monkeypatch.syspath_prepend(str(site))
    assert main(["methods", "show", "acme"]) == 0
    assert "Acme 2026" in capsys.readouterr().out
    student, out = tmp_path / "student", tmp_path / "out"
    common = ["--teacher", str(teacher_folder), "--data", str(task_folder)]
    assert main(["design", *common, "--layers", "2", "-o", str(student)]) == 0
    more = ["--method", "acme+kd", "method_options.acme.scale=2.0", "threads=1"]
    words = ["distill", *common, "--student", str(student), "-o", str(out), *more]
    assert main([*words, "--max-steps", "3"]) == 0
    assert (out / "model.safetensors").is_file()
