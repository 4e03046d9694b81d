"""PyTorch: runs a Hugging Face folder as its authors trained it, the reference of every ratio."""

import inspect
import json
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError
from torch import nn
from transformers import (
    AutoModel,
    AutoModelForCausalLM,
    AutoModelForMaskedLM,
    AutoModelForQuestionAnswering,
    AutoModelForSequenceClassification,
    AutoModelForTokenClassification,
)
from transformers.utils import logging as transformers_logging

from toolchain.errors import IntegrityError, StepError, UsageError
from toolchain.models.embedder import SentenceEncoder
from toolchain.models.found import declared_task
from toolchain.models.outputs import logits_of
from toolchain.models.sentence import MODULES, Sentence, read_sentence
from toolchain.runtimes.runtime import Feed, Session
from toolchain.spec import Task

__all__ = ["open_session"]

# Contenders are timed under one provider name, which is onnxruntime's.
_CLASSES = {
    "causal_lm": AutoModelForCausalLM,
    "classify": AutoModelForSequenceClassification,
    "embed": AutoModel,
    "mask_lm": AutoModelForMaskedLM,
    "qa": AutoModelForQuestionAnswering,
    "tag": AutoModelForTokenClassification,
}
_DEVICES = {"CPUExecutionProvider": "cpu", "CUDAExecutionProvider": "cuda"}


class _TorchSession:
    """A model with a head in fp32 and evaluation mode."""

    def __init__(self, path: Path, model: nn.Module, device: torch.device) -> None:
        self._path = path
        self._model: nn.Module | None = model
        self._device = device
        accepted = inspect.signature(model.forward).parameters
        self._inputs = frozenset(accepted)

    def run(self, feed: Feed) -> NDArray[np.float32]:
        """Return the logits, (B, C) or (B, N, C), of a feed of (B, N) arrays."""
        assert self._model is not None, "the session is closed"
        if "input_ids" not in feed:
            raise UsageError(
                f"{self._path}: the model asks for 'input_ids', the feed has {', '.join(feed)}"
            )
        inputs = {
            name: torch.from_numpy(np.ascontiguousarray(values)).to(self._device)
            for name, values in feed.items()
            if name in self._inputs
        }
        try:
            with torch.inference_mode():
                logits = logits_of(self._model(**inputs))
        except (IndexError, RuntimeError) as error:
            shape = " x ".join(str(size) for size in feed["input_ids"].shape)
            raise StepError(
                f"{self._path}: PyTorch failed on a feed of shape {shape}: {_one_line(error)}"
            ) from error
        # Copying to the host waits for the device, so the time of a run is the whole time.
        result: NDArray[np.float32] = logits.float().cpu().numpy()
        return result

    def generate(self, feed: Feed, count: int) -> NDArray[np.int64]:
        """Return the `count` tokens that follow one prompt, (1, count), with the model's cache."""
        assert self._model is not None, "the session is closed"
        if "past_key_values" not in self._inputs:
            raise UsageError(f"{self._path}: a model without a cache does not go on with texts")
        ids = torch.from_numpy(np.ascontiguousarray(feed["input_ids"])).to(self._device)
        past, found = None, []
        with torch.inference_mode():
            for _ in range(count):
                outputs = self._model(input_ids=ids, past_key_values=past, use_cache=True)
                past, ids = outputs.past_key_values, outputs.logits[:, -1:].argmax(-1)
                found.append(ids)
        result: NDArray[np.int64] = torch.cat(found, dim=1).cpu().numpy()
        return result

    def close(self) -> None:
        """Drop the model."""
        self._model = None


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split()) or type(error).__name__


def _device(provider: str) -> torch.device:
    name = _DEVICES.get(provider)
    if name is None:
        raise UsageError(
            f"PyTorch has no provider {provider!r}", f"it knows: {', '.join(sorted(_DEVICES))}"
        )
    if name == "cuda" and not torch.cuda.is_available():
        raise UsageError(f"{provider}: PyTorch finds no CUDA device here")
    return torch.device(name)


def _check_folder(path: Path) -> Task:
    """Return what the folder's model is for. Raises UsageError or IntegrityError."""
    if not path.is_dir():
        found = "a file" if path.is_file() else "no such folder"
        raise UsageError(f"{path}: {found}, PyTorch opens a Hugging Face folder")
    config = path / "config.json"
    if not config.is_file():
        raise UsageError(f"{path}: no config.json, so not a Hugging Face folder")
    if not any(path.glob("*.safetensors")):
        raise UsageError(
            f"{path}: no *.safetensors file", "save the model with save_pretrained first"
        )
    try:
        found = json.loads(config.read_text(encoding="utf-8"))
    except ValueError as error:
        raise IntegrityError(f"{config}: not valid JSON: {_one_line(error)}") from None
    task: Task = "embed" if (path / MODULES).is_file() else declared_task(found)
    # A folder that names no class is taken for what most are, and its weights are checked.
    return task if task in _CLASSES else "classify"


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep transformers from drawing bars and tables; what matters is raised by `_load`."""
    bars = transformers_logging.is_progress_bar_enabled()
    verbosity = transformers_logging.get_verbosity()
    transformers_logging.disable_progress_bar()
    transformers_logging.set_verbosity(logging.CRITICAL)
    try:
        yield
    finally:
        transformers_logging.set_verbosity(verbosity)
        if bars:
            transformers_logging.enable_progress_bar()


def _load(path: Path, task: Task) -> nn.Module:
    """Load the model, refusing weights that transformers would replace by random numbers."""
    with _quiet():
        model, loading = _CLASSES[task].from_pretrained(
            path,
            dtype=torch.float32,
            local_files_only=True,
            trust_remote_code=False,
            use_safetensors=True,
            ignore_mismatched_sizes=True,
            output_loading_info=True,
        )
    unfit = sorted(str(key[0]) for key in loading["mismatched_keys"])
    missing = sorted(str(key) for key in loading["missing_keys"])
    if task == "embed":
        model.config.sentence = (read_sentence(path) or Sentence()).as_json()
        model = SentenceEncoder(model.config, model)
        # Nothing reads the encoder's own pooler.
        missing = [key for key in missing if not key.startswith("pooler.")]
    if unfit:
        raise UsageError(
            f"{path}: {len(unfit)} weights differ in shape from config.json, "
            f"{unfit[0]!r} among them"
        )
    if missing:
        raise UsageError(
            f"{path}: {len(missing)} weights are missing, {missing[0]!r} among them",
            "a fine-tuned model is expected",
        )
    assert isinstance(model, nn.Module)
    return model


def open_session(path: Path, *, threads: int, provider: str) -> Session:
    """Open a Hugging Face folder as what its configuration says: fp32, evaluation mode, SDPA.

    SDPA is what transformers picks for every family that has it. `threads` goes to
    `torch.set_num_threads` and so holds for the whole process: sessions opened in one process
    must ask for the same number.
    """
    device = _device(provider)
    task = _check_folder(path)
    torch.set_num_threads(threads)
    try:
        model = _load(path, task)
    except SafetensorError as error:
        raise IntegrityError(
            f"{path}: damaged weights: {_one_line(error)}", "save or download it again"
        ) from None
    except (OSError, ValueError, KeyError, RuntimeError) as error:
        reason = _one_line(error).split(". ", 1)[0]
        raise UsageError(f"{path}: cannot be opened for {task}: {reason}") from None
    return _TorchSession(path, model.to(device).eval(), device)
