"""Tiny random models of every family, from their configurations; no file is needed.

Grouped queries, head widths of their own, narrow embeddings and both ways of DeBERTa's relative
positions are among them, since real checkpoints use them.
"""

import json
import string
from collections.abc import Callable
from functools import cache
from pathlib import Path

import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForCausalLM,
    AutoModelForMaskedLM,
    AutoModelForQuestionAnswering,
    AutoModelForSequenceClassification,
    AutoModelForTokenClassification,
    PretrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerFast,
)

from toolchain.spec import Task

VOCAB = 50
_SIZES = {
    "hidden_size": 32,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "intermediate_size": 48,
    "max_position_embeddings": 40,
}
_DEBERTA_V3 = {
    **_SIZES,
    "relative_attention": True,
    "position_buckets": 8,
    "pos_att_type": ["p2c", "c2p"],
    "share_att_key": True,
    "norm_rel_ebd": "layer_norm",
    "position_biased_input": False,
    "type_vocab_size": 0,
}
_DEBERTA_OWN = {
    **_DEBERTA_V3,
    "share_att_key": False,
    "norm_rel_ebd": "none",
    "position_buckets": -1,
    "position_biased_input": True,
    "type_vocab_size": 2,
}
_THIN = {
    **_SIZES,
    "embedding_size": 24,
    "intra_bottleneck_size": 16,
    "num_feedforward_networks": 3,
    # Without norms, large weights blow up.
    "initializer_range": 0.1,
}
_GROUPED = {**_SIZES, "num_key_value_heads": 2}

SETTINGS: dict[str, tuple[str, dict[str, object]]] = {
    "mobilebert": ("mobilebert", _THIN),
    "bert": ("bert", _SIZES),
    "roberta": ("roberta", {**_SIZES, "type_vocab_size": 1, "pad_token_id": 1}),
    "xlm-roberta": ("xlm-roberta", {**_SIZES, "type_vocab_size": 1, "pad_token_id": 1}),
    "distilbert": (
        "distilbert",
        {"dim": 32, "n_layers": 4, "n_heads": 4, "hidden_dim": 48, "max_position_embeddings": 40},
    ),
    "electra": ("electra", {**_SIZES, "embedding_size": 16}),
    "electra wide": ("electra", {**_SIZES, "embedding_size": 32}),
    "mpnet": ("mpnet", {**_SIZES, "pad_token_id": 1}),
    "deberta-v3": ("deberta-v2", _DEBERTA_V3),
    "deberta-v2": ("deberta-v2", _DEBERTA_OWN),
    "deberta narrow": ("deberta-v2", {**_DEBERTA_V3, "embedding_size": 16}),
    "gpt2": ("gpt2", {"n_embd": 32, "n_layer": 4, "n_head": 4, "n_positions": 40}),
    "llama": ("llama", _GROUPED),
    "llama tied": ("llama", {**_SIZES, "tie_word_embeddings": True, "attention_bias": True}),
    "mistral": ("mistral", {**_GROUPED, "head_dim": 16}),
    "qwen2": ("qwen2", _GROUPED),
    "qwen3": ("qwen3", {**_GROUPED, "head_dim": 16}),
}
DECODERS = ("gpt2", "llama", "llama tied", "mistral", "qwen2", "qwen3")
ENCODERS = tuple(name for name in SETTINGS if name not in DECODERS)
# Families whose attention scores can be recomputed.
SCORED = tuple(name for name in SETTINGS if not name.startswith("deberta"))

LABELS = {0: "light", 1: "music", 2: "heat"}
_PROBLEMS = {
    "classify": "single_label_classification",
    "multi_label": "multi_label_classification",
    "regress": "regression",
}
_CLASSES: dict[Task, type] = {
    "classify": AutoModelForSequenceClassification,
    "multi_label": AutoModelForSequenceClassification,
    "regress": AutoModelForSequenceClassification,
    "tag": AutoModelForTokenClassification,
    "qa": AutoModelForQuestionAnswering,
    "mask_lm": AutoModelForMaskedLM,
    "causal_lm": AutoModelForCausalLM,
    "encode": AutoModel,
}


def tasks_of(name: str) -> tuple[Task, ...]:
    """Return every task a family is built for here."""
    language: Task = "causal_lm" if name in DECODERS else "mask_lm"
    asking: tuple[Task, ...] = () if name in DECODERS else ("qa",)
    return ("classify", "multi_label", "regress", "tag", *asking, language, "encode")


EVERY = [(name, task) for name in SETTINGS for task in tasks_of(name)]
# Enough for whatever depends on names: variants of a shape are left out, and the three tasks of
# one answer per sequence, which share a head, are there with two families only.
_VARIANTS = ("xlm-roberta", "electra wide", "deberta-v2", "deberta narrow", "llama tied")
HEADS = [
    (name, task)
    for name, task in EVERY
    if name not in _VARIANTS
    and (task not in ("multi_label", "regress") or name in ("bert", "llama"))
]


def config_of(name: str, task: Task = "classify", **changes: object) -> PretrainedConfig:
    model_type, settings = SETTINGS[name]
    known = {"pad_token_id": 0, "vocab_size": VOCAB, "initializer_range": 0.3}
    config = AutoConfig.for_model(model_type, **{**known, **settings, **changes})
    if task in _PROBLEMS:
        config.problem_type = _PROBLEMS[task]
    if task in ("classify", "multi_label", "tag"):
        config.id2label = dict(LABELS)
        config.label2id = {label: i for i, label in LABELS.items()}
    if task == "regress":
        config.num_labels = 1
    return config


def make(name: str, task: Task = "classify", **changes: object) -> PreTrainedModel:
    """Return a random model, in evaluation mode."""
    torch.manual_seed(7)
    model: PreTrainedModel = _CLASSES[task].from_config(config_of(name, task, **changes))
    with torch.no_grad():
        for parameter in model.parameters():
            # Fresh biases and norms are zeros and ones: a wrong one would not be seen.
            if parameter.ndim == 1:
                parameter.add_(torch.randn_like(parameter) * 0.1)
    return model.eval()


@cache
def tokenizer(pad: bool = True) -> PreTrainedTokenizerFast:
    """Return a tokenizer of letters: byte-level BPE without merges, which all families read."""
    end = "<|endoftext|>"
    letters = ["\u0120", *string.ascii_letters][: VOCAB - 3]
    raw = Tokenizer(models.BPE({t: i for i, t in enumerate(["<pad>", "<unk>", end, *letters])}, []))
    raw.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    names = {"unk_token": "<unk>", "eos_token": end} | ({"pad_token": "<pad>"} if pad else {})
    return PreTrainedTokenizerFast(tokenizer_object=raw, **names)


def save(model: PreTrainedModel, folder: Path, *, pad: bool = True) -> Path:
    """Write a model with a tokenizer."""
    model.save_pretrained(folder)
    tokenizer(pad).save_pretrained(folder)
    return folder


def edit_config(folder: Path, **changes: object) -> None:
    config = json.loads((folder / "config.json").read_text())
    for key, value in changes.items():
        if value is None:
            config.pop(key, None)
        else:
            config[key] = value
    (folder / "config.json").write_text(json.dumps(config))


def edit_weights(folder: Path, change: Callable[[dict[str, torch.Tensor]], object]) -> None:
    from safetensors.torch import load_file, save_file

    tensors = load_file(folder / "model.safetensors")
    change(tensors)
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})


def batch(name: str, rows: int = 3, tokens: int = 9) -> dict[str, torch.Tensor]:
    """Return random ids, padded on the right."""
    g = torch.Generator().manual_seed(0)
    padding = SETTINGS[name][1].get("pad_token_id", 0)
    assert isinstance(padding, int)
    ids = torch.randint(3, VOCAB, (rows, tokens), generator=g)
    mask = torch.ones(rows, tokens, dtype=torch.long)
    mask[1, 5:] = 0
    mask[2, 2:] = 0
    return {"input_ids": ids.masked_fill(mask == 0, padding), "attention_mask": mask}


def parameters(model: PreTrainedModel) -> int:
    """Count every parameter once, shared ones too."""
    return sum(p.numel() for p in model.parameters())
