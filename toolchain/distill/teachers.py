"""Models that are read while a student trains: for now, teachers that run beside it."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from toolchain.data.batching import Batch, Rows
from toolchain.distill.capture import Captures, Recorder
from toolchain.distill.extract import Request
from toolchain.distill.operators.operator import Patches
from toolchain.distill.positions import positions_of
from toolchain.models.family import Family
from toolchain.models.vocabulary import Vocabulary
from toolchain.spec import ModelSpec

__all__ = ["OnlineTeacher", "Teacher", "TrainingModel"]


@dataclass(frozen=True, kw_only=True)
class TrainingModel:
    """A model with what is needed to read its insides.

    A student with a `vocabulary` reads ids of its own for the ids its teachers read. A teacher with
    `rows` has another tokenizer than the student: these are the student's rows in its tokens.
    """

    model: PreTrainedModel
    family: Family
    spec: ModelSpec
    vocabulary: Vocabulary | None = None
    rows: Rows | None = None


class Teacher(Protocol):
    """Gives the requested knowledge of a batch."""

    @property
    def spec(self) -> ModelSpec:
        """The teacher's shape."""

    @property
    def rows(self) -> Rows | None:
        """The student's rows in tokens of the teacher's own; None where it reads the student's."""

    def captures(self, batch: Batch, patches: Patches) -> Captures:
        """Return detached tensors for the batch, with activations replaced as `patches` say."""


class OnlineTeacher:
    """Runs the model on every batch: evaluation mode, no gradient, no dropout."""

    def __init__(
        self,
        teacher: TrainingModel,
        requests: Iterable[Request],
        *,
        device: torch.device,
        bf16: bool,
    ) -> None:
        torch.nn.Module.to(teacher.model, device)
        self.spec, self.rows = teacher.spec, teacher.rows
        self._model = teacher.model.eval().requires_grad_(False)
        self._before = _cast_once(self._model) if bf16 else {}
        self._recorder = Recorder(self._model, teacher.family, teacher.spec, requests)
        self._recorder.__enter__()
        self._device = device
        self._bf16 = bf16

    def captures(self, batch: Batch, patches: Patches) -> Captures:
        """Return what the model knows of the batch."""
        autocast = torch.autocast(self._device.type, torch.bfloat16, enabled=self._bf16)
        with torch.no_grad(), autocast, self._recorder.patched(patches):
            logits: Tensor = self._model(**batch.inputs).logits
        rows = positions_of(self.spec.task, batch.labels)
        return self._recorder.take(rows.rows(logits), rows.rows)

    def close(self) -> None:
        """Remove the hooks and give the model back as it came."""
        for parameter, values in self._before.items():
            parameter.data = values
        self._recorder.__exit__(None, None, None)


def _cast_once(model: torch.nn.Module) -> dict[torch.nn.Parameter, Tensor]:
    """Keep the matrices of linear layers in bf16, as autocast would cast them in every pass.

    Returns what they were. The results are the same to the bit; a matrix that is also a table of
    embeddings stays as it is.
    """
    before = {}
    tables = {m.weight.data_ptr() for m in model.modules() if isinstance(m, torch.nn.Embedding)}
    for module in model.modules():
        if isinstance(module, torch.nn.Linear | Conv1D) and module.weight.data_ptr() not in tables:
            for parameter in module.parameters(recurse=False):
                before[parameter] = parameter.data
                parameter.data = parameter.data.bfloat16()
    return before
