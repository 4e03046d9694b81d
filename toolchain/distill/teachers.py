"""Models that are read while a student trains, and the teacher that runs beside it."""

from collections.abc import Iterable
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor
from transformers import Cache, PreTrainedModel
from transformers.pytorch_utils import Conv1D

from toolchain.data.batching import Batch, Rows
from toolchain.distill.blocks import Blocks, InTurn
from toolchain.distill.capture import Captures, Gather, Recorder, as_it_lies, sparing
from toolchain.distill.extract import Request
from toolchain.distill.mixing import next_of
from toolchain.distill.operators.operator import Patches
from toolchain.distill.positions import positions_of
from toolchain.distill.products import quick_products
from toolchain.models.family import Family
from toolchain.models.vocabulary import Vocabulary
from toolchain.spec import ModelSpec

__all__ = ["OnlineTeacher", "Readable", "Takeable", "Teacher", "TrainingModel"]


@dataclass(frozen=True, kw_only=True)
class TrainingModel:
    """A model with what is needed to read its insides.

    A student with a `vocabulary` reads ids of its own for the ids its teachers read. A teacher with
    `rows` has another tokenizer than the student: these are the student's rows in its tokens.
    `whole` makes whole what is read of its parameters beside its passes, `blocks` runs blocks of it
    by themselves.
    """

    model: PreTrainedModel
    family: Family
    spec: ModelSpec
    vocabulary: Vocabulary | None = None
    rows: Rows | None = None
    whole: Gather = as_it_lies
    blocks: Blocks = field(default_factory=InTurn)

    def reading(self, rows: Rows | None) -> "TrainingModel":
        """Return it with rows of its own."""
        return replace(self, rows=rows)

    def taken(self, device: torch.device) -> "TrainingModel":
        """Return itself, on the device: a surgery may take its modules."""
        torch.nn.Module.to(self.model, device)
        return self

    def open(
        self, requests: frozenset[Request], *, device: torch.device, bf16: bool
    ) -> "OnlineTeacher":
        """Return it as a teacher that runs beside the student."""
        return OnlineTeacher(self, requests, device=device, bf16=bf16)


class Readable(Protocol):
    """A teacher before it is known what is read of it: a model here, sharded, or on disk."""

    @property
    def spec(self) -> ModelSpec:
        """Its shape."""

    @property
    def rows(self) -> Rows | None:
        """The student's rows in tokens of its own; None where it reads the student's."""

    def reading(self, rows: Rows | None) -> "Readable":
        """Return it with rows of its own."""

    def open(self, requests: frozenset[Request], *, device: torch.device, bf16: bool) -> "Teacher":
        """Return the teacher that gives these tensors of every batch. Raises UsageError."""


@runtime_checkable
class Takeable(Protocol):
    """A teacher that has its modules here, though their weights may come and go."""

    def taken(self, device: torch.device) -> TrainingModel:
        """Return it as a model whose modules may run alone, with a gradient for their inputs."""


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

    def close(self) -> None:
        """Let go of what was opened."""


class OnlineTeacher:
    """Runs the model on every batch: evaluation mode, no gradient, no dropout.

    A `placed` model lies where it is to lie, as it is to lie there: in pieces.
    """

    def __init__(
        self,
        teacher: TrainingModel,
        requests: Iterable[Request],
        *,
        device: torch.device,
        bf16: bool,
        placed: bool = False,
    ) -> None:
        if not placed:
            torch.nn.Module.to(teacher.model, device)
        self.spec, self.rows, self.abreast = teacher.spec, teacher.rows, placed
        self._model = teacher.model.eval().requires_grad_(False)
        if bf16 and not placed:
            _cast_once(self._model)
        asked = frozenset(requests)
        self._entered = ExitStack()
        self._recorder = self._entered.enter_context(
            Recorder(
                self._model,
                teacher.family,
                teacher.spec,
                asked,
                whole=teacher.whole,
                stops=not placed,
            )
        )
        if not placed:
            self._entered.enter_context(sparing(self._model, teacher.family, teacher.spec, asked))
            self._entered.enter_context(quick_products(self._model))
        self._device = device
        self._bf16 = bf16

    def captures(self, batch: Batch, patches: Patches) -> Captures:
        """Return what the model knows of the batch."""
        autocast = torch.autocast(self._device.type, torch.bfloat16, enabled=self._bf16)
        with torch.no_grad(), autocast, self._recorder.patched(patches):
            logits = self._recorder.run(self._model, batch.inputs)
        return self._recorder.take(logits, positions_of(self.spec.task, batch.labels).rows)

    def next_token(
        self, ids_RN: Tensor, mask_RN: Tensor, past: Cache | None
    ) -> tuple[Tensor, Cache]:
        """Return logits (R, V) behind texts padded on the left, and what is kept of them.

        `ids_RN` are the tokens behind those of `past`, `mask_RN` is 1 at real tokens of both.
        """
        autocast = torch.autocast(self._device.type, torch.bfloat16, enabled=self._bf16)
        with torch.no_grad(), autocast:
            return next_of(self._model, ids_RN, mask_RN, past)

    def close(self) -> None:
        """Remove the hooks and give the model back as it came."""
        self._entered.close()


def _cast_once(model: torch.nn.Module) -> None:
    """Keep the matrices of linear layers in bf16, as autocast would cast them in every pass.

    The results are the same to the bit; a matrix that is also a table of embeddings stays as it is.
    """
    tables = {m.weight.data_ptr() for m in model.modules() if isinstance(m, torch.nn.Embedding)}
    for module in model.modules():
        if isinstance(module, torch.nn.Linear | Conv1D) and module.weight.data_ptr() not in tables:
            for parameter in module.parameters(recurse=False):
                parameter.data = parameter.data.bfloat16()
