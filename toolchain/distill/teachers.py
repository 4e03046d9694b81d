"""Where a teacher's knowledge comes from: for now, a model that runs beside the student."""

from collections.abc import Iterable
from typing import Protocol

import torch
from transformers import PreTrainedModel

from toolchain.data.batching import Batch
from toolchain.distill.capture import Captures, Recorder
from toolchain.distill.extract import Request
from toolchain.models.family import Family
from toolchain.spec import ModelSpec

__all__ = ["OnlineTeacher", "Teacher"]


class Teacher(Protocol):
    """Gives the requested knowledge of a batch."""

    def captures(self, batch: Batch) -> Captures:
        """Return detached tensors for the batch."""


class OnlineTeacher:
    """Runs the model on every batch: evaluation mode, no gradient, no dropout."""

    def __init__(
        self,
        model: PreTrainedModel,
        family: Family,
        spec: ModelSpec,
        requests: Iterable[Request],
        *,
        device: torch.device,
        bf16: bool,
    ) -> None:
        torch.nn.Module.to(model, device)
        self._model = model.eval().requires_grad_(False)
        self._recorder = Recorder(self._model, family, spec, requests)
        self._recorder.__enter__()
        self._device = device
        self._bf16 = bf16

    def captures(self, batch: Batch) -> Captures:
        """Return what the model knows of the batch."""
        autocast = torch.autocast(self._device.type, torch.bfloat16, enabled=self._bf16)
        with torch.no_grad(), autocast:
            logits = self._model(**batch.inputs).logits
        return self._recorder.take(logits)

    def close(self) -> None:
        """Remove the hooks."""
        self._recorder.__exit__(None, None, None)
