"""Shared fixtures: a tiny real teacher and a tiny real task, made from nothing.

The teacher is a random BERT of 4 x 32; the task is a grammar of a few hundred sentences whose
class depends on one word. No network, no data beside the checkout.
"""

import os
import random
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

# Machines that run tests are busy: how long a draw or an example takes says nothing.
settings.register_profile("busy", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("busy")

# As the command line does, before torch is loaded: spinning threads starve on a busy machine.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

WORDS = {
    "light": ["lamp", "light", "bulb", "glow"],
    "music": ["song", "music", "tune", "radio"],
    "heat": ["heat", "warm", "cold", "oven"],
}
FILLERS = [
    "please",
    "turn",
    "the",
    "on",
    "off",
    "in",
    "my",
    "room",
    "now",
    "can",
    "you",
    "set",
    "to",
    "a",
    "bit",
    "more",
    "less",
    "for",
    "me",
    "today",
]
TARGET = """\
name: {name}
summary: a test's machine
fidelity: none
runtime: {{name: onnxruntime, threads: 1}}
accepts: {{formats: [{format}], precisions: [int8, bf16, fp32]}}
budget: {{memory_bytes: 1000000000}}
"""
"""A machine that takes one format."""


def shared_folder() -> Path | None:
    """Return the folder of real data and models beside the checkout, if it is there."""
    folder = Path(__file__).resolve().parents[2] / "shared"
    return folder if (folder / "models").is_dir() else None


@pytest.fixture(scope="session")
def shared() -> Path:
    folder = shared_folder()
    if folder is None:
        pytest.skip("no real data beside the checkout (../shared)")
    return folder


def sentences(count: int, seed: int) -> list[tuple[str, str]]:
    """Return distinct (text, label) rows; the label is the topic of the one topical word."""
    generator = random.Random(seed)
    rows: dict[str, str] = {}
    while len(rows) < count:
        label = generator.choice(sorted(WORDS))
        words = generator.choices(FILLERS, k=generator.randint(2, 9))
        words.insert(generator.randint(0, len(words)), generator.choice(WORDS[label]))
        rows[" ".join(words)] = label
    return list(rows.items())


@pytest.fixture(scope="session")
def task_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A task folder: 480 train, 96 dev and 48 test rows in three classes."""
    folder = tmp_path_factory.mktemp("task")
    rows = sentences(624, seed=1)
    for name, part in (("train", rows[:480]), ("dev", rows[480:576]), ("test", rows[576:])):
        lines = ["text\tlabel", *(f"{text}\t{label}" for text, label in part)]
        (folder / f"{name}.tsv").write_text("\n".join(lines) + "\n", encoding="utf-8")
    (folder / "labels.txt").write_text("\n".join(sorted(WORDS)) + "\n", encoding="utf-8")
    return folder


def make_teacher(folder: Path, *, head: bool, seed: int = 0, **shape: float) -> Path:
    """Write a tiny random BERT with a WordPiece tokenizer."""
    import torch
    from transformers import BertConfig, BertForSequenceClassification, BertModel, BertTokenizerFast

    folder.mkdir(parents=True, exist_ok=True)
    words = sorted({*FILLERS, *(word for group in WORDS.values() for word in group)})
    pieces = [*"abcdefghijklmnopqrstuvwxyz", *(f"##{c}" for c in "abcdefghijklmnopqrstuvwxyz")]
    vocab = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *words, *pieces, *".,!?'"]
    vocab = list(dict.fromkeys(vocab))
    (folder / "vocab.txt").write_text("\n".join(vocab) + "\n", encoding="utf-8")
    BertTokenizerFast(str(folder / "vocab.txt"), model_max_length=64).save_pretrained(folder)
    torch.manual_seed(seed)
    sizes = {
        "hidden_size": 32,
        "num_hidden_layers": 4,
        "num_attention_heads": 4,
        "intermediate_size": 64,
        "max_position_embeddings": 64,
        # Wider than BERT's 0.02, so that so small a model learns in seconds.
        "initializer_range": 0.1,
        **shape,
    }
    config = BertConfig(vocab_size=len(vocab), **sizes)
    if head:
        labels = sorted(WORDS)
        config.id2label = dict(enumerate(labels))
        config.label2id = {name: i for i, name in enumerate(labels)}
        model = BertForSequenceClassification(config)
    else:
        model = BertModel(config)
    model.save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def encoder_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bare tiny encoder."""
    return make_teacher(tmp_path_factory.mktemp("encoder"), head=False)


@pytest.fixture(scope="session")
def teacher_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny classifier with a head for the task, untrained."""
    return make_teacher(tmp_path_factory.mktemp("teacher"), head=True)


@pytest.fixture(autouse=True)
def _no_hub(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("TOKENIZERS_PARALLELISM", "false")
    return
