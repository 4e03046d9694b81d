"""Teachers, students and tokenizers read from a folder: fp32, safetensors, no code from data."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

import torch
from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForCausalLM,
    AutoModelForMaskedLM,
    AutoModelForQuestionAnswering,
    AutoModelForSequenceClassification,
    AutoModelForTokenClassification,
    AutoTokenizer,
    PretrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerFast,
)
from transformers.utils import logging as hf_logging

from toolchain.errors import UsageError
from toolchain.models.embedder import SentenceEncoder
from toolchain.models.family import family_of
from toolchain.models.sentence import Sentence, read_sentence
from toolchain.spec import SEQUENCE, Task

__all__ = [
    "empty_model",
    "load_classifier",
    "load_config",
    "load_model",
    "load_tokenizer",
    "new_model",
    "quiet",
    "save_model",
]

_CLASSES = {
    "classify": AutoModelForSequenceClassification,
    "multi_label": AutoModelForSequenceClassification,
    "regress": AutoModelForSequenceClassification,
    "tag": AutoModelForTokenClassification,
    "qa": AutoModelForQuestionAnswering,
    "mask_lm": AutoModelForMaskedLM,
    "causal_lm": AutoModelForCausalLM,
    # Its states are pooled behind it.
    "embed": AutoModel,
    "encode": AutoModel,
}
_PROBLEMS = {
    "classify": "single_label_classification",
    "multi_label": "multi_label_classification",
    "regress": "regression",
}


def quiet() -> None:
    """Silence transformers' own progress bars and notes; ours say what matters."""
    hf_logging.set_verbosity_error()
    if not torch.cuda.is_available():
        # Where DeepSpeed is installed transformers imports it to save a model, and it complains.
        os.environ.setdefault("DS_ACCELERATOR", "cpu")
    hf_logging.disable_progress_bar()


def load_model(
    folder: Path,
    task: Task,
    *,
    labels: Mapping[int, str] | None = None,
    seed: int = 0,
    dtype: torch.dtype = torch.float32,
    cut: Mapping[str, Any] | None = None,
) -> PreTrainedModel:
    """Load a model for a task in fp32 (or `dtype`), evaluation mode.

    `cut` are from_pretrained's settings for a model of which other processes have parts.

    A head the folder lacks is new, drawn with `seed`; `labels` names the classes of a new one.
    Raises UsageError when the family has no head for the task, or config.json names what
    transformers does not have.
    """
    torch.manual_seed(seed)
    config = load_config(folder, task, labels=labels)
    try:
        model: PreTrainedModel = _CLASSES[task].from_pretrained(
            folder, config=config, dtype=dtype, use_safetensors=True, **(cut or {})
        )
    except KeyError as error:
        # A name in config.json, as that of an activation, which transformers looks up.
        raise UsageError(f"{folder}: config.json names {error}, unknown to transformers") from None
    if task == "embed":
        # All that is asked of a model with a head is asked of it.
        model = cast(PreTrainedModel, SentenceEncoder(config, model))
    model.eval()
    return model


def load_config(
    folder: Path, task: Task, *, labels: Mapping[int, str] | None = None
) -> PretrainedConfig:
    """Return the configuration `load_model` gives a model. Raises UsageError as that does."""
    quiet()
    config = AutoConfig.from_pretrained(folder)
    family = family_of(config.model_type)
    if task != "encode":
        family.head(task)
    if labels is not None and task != "regress":
        config.id2label = dict(labels)
        config.label2id = {name: i for i, name in labels.items()}
        config.num_labels = len(labels)
    if task == "regress":
        config.num_labels = 1
    if task == "qa":
        # The beginning of an answer and its end, whatever the encoder's folder said before.
        config.num_labels = 2
    if task in _PROBLEMS and (labels is not None or task != "classify"):
        config.problem_type = _PROBLEMS[task]
    if task == "embed":
        config.sentence = (read_sentence(folder) or Sentence()).as_json()
    if task in SEQUENCE and family.pools == "last":
        _set_padding(config, folder)
    read: PretrainedConfig = config
    return read


def new_model(config: PretrainedConfig, task: Task) -> PreTrainedModel:
    """Return a model with random weights in fp32, evaluation mode."""
    quiet()
    if task == "embed":
        model = cast(PreTrainedModel, SentenceEncoder(config))
    else:
        model = _CLASSES[task].from_config(config, dtype=torch.float32)
    model.eval()
    return model


def empty_model(config: PretrainedConfig, task: Task) -> PreTrainedModel:
    """Return a model whose parameters have shapes and no values; its buffers are real."""
    # Imported here: loading a whole model must not need accelerate's second of start-up.
    from accelerate import init_empty_weights

    with init_empty_weights(include_buffers=False):
        model = new_model(config, task)
    # Taking the values away has made two parameters of a tied one.
    model.tie_weights()
    return model


def _set_padding(config: PretrainedConfig, folder: Path) -> None:
    """Make a decoder that classifies find the last real token, the one before the padding."""
    padding = load_tokenizer(folder).pad_token_id
    if not 0 <= padding < config.vocab_size:
        raise UsageError(
            f"{folder}: its padding token has the id {padding}, the model has "
            f"{config.vocab_size} token embeddings",
            "name an existing token as pad_token in tokenizer_config.json",
        )
    config.pad_token_id = padding


def load_classifier(
    folder: Path, *, labels: Mapping[int, str] | None = None, seed: int = 0
) -> PreTrainedModel:
    """Load a single-label classifier; with `labels`, a bare model gets a new head for them."""
    return load_model(folder, "classify", labels=labels, seed=seed)


def load_tokenizer(folder: Path) -> PreTrainedTokenizerFast:
    """Load a fast tokenizer; one without a padding token pads with its end-of-text token.

    Raises UsageError when the folder gives only a slow one, or one with neither token.
    """
    quiet()
    tokenizer = AutoTokenizer.from_pretrained(folder, use_fast=True)
    if not isinstance(tokenizer, PreTrainedTokenizerFast):
        raise UsageError(
            f"{folder}: its tokenizer has no fast version", "add a tokenizer.json to the folder"
        )
    if tokenizer.pad_token_id is None:
        if tokenizer.eos_token_id is None:
            raise UsageError(
                f"{folder}: its tokenizer has neither a padding nor an end-of-text token",
                "name one as pad_token in tokenizer_config.json",
            )
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer


def save_model(model: PreTrainedModel, folder: Path) -> None:
    """Save weights (safetensors) and configuration, without a note of where they came from."""
    model.config._name_or_path = ""
    if isinstance(model, SentenceEncoder):
        model.save(folder)
        return
    model.save_pretrained(folder, safe_serialization=True)
