"""Teachers, students and tokenizers read from a folder: fp32, safetensors, no code from data."""

from collections.abc import Mapping
from pathlib import Path

import torch
from transformers import (
    AutoConfig,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    PreTrainedModel,
    PreTrainedTokenizerFast,
)
from transformers.utils import logging as hf_logging

from toolchain.errors import UsageError

__all__ = ["load_classifier", "load_tokenizer", "quiet", "save_classifier"]


def quiet() -> None:
    """Silence transformers' own progress bars and notes; ours say what matters."""
    hf_logging.set_verbosity_error()
    hf_logging.disable_progress_bar()


def load_classifier(
    folder: Path, *, labels: Mapping[int, str] | None = None, seed: int = 0
) -> PreTrainedModel:
    """Load a classifier in fp32, evaluation mode.

    With `labels`, a bare encoder gets a new head for them, drawn with `seed`.
    """
    quiet()
    torch.manual_seed(seed)
    config = AutoConfig.from_pretrained(folder)
    if labels is not None:
        config.id2label = dict(labels)
        config.label2id = {name: i for i, name in labels.items()}
        config.num_labels = len(labels)
        config.problem_type = "single_label_classification"
    model: PreTrainedModel = AutoModelForSequenceClassification.from_pretrained(
        folder, config=config, dtype=torch.float32, use_safetensors=True
    )
    model.eval()
    return model


def load_tokenizer(folder: Path) -> PreTrainedTokenizerFast:
    """Load a fast tokenizer. Raises UsageError when the folder gives only a slow one."""
    quiet()
    tokenizer = AutoTokenizer.from_pretrained(folder, use_fast=True)
    if not isinstance(tokenizer, PreTrainedTokenizerFast):
        raise UsageError(
            f"{folder}: its tokenizer has no fast version", "add a tokenizer.json to the folder"
        )
    return tokenizer


def save_classifier(model: PreTrainedModel, folder: Path) -> None:
    """Save weights (safetensors) and configuration, without a note of where they came from."""
    model.config._name_or_path = ""
    model.save_pretrained(folder, safe_serialization=True)
