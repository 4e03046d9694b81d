"""Teachers whose matrices are cut over processes (tensor parallelism), through transformers.

Every rank computes with its heads and its columns, so all of them must pass the same rows: the
ranks' batches are gathered, the teacher runs once on all of them, and each rank keeps what is its
own. Hidden states and predictions are whole in every rank; queries, keys and values are gathered
over heads.

Shape letters: B batch, N tokens.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.distributed.tensor import DTensor
from transformers import Cache, PreTrainedModel
from transformers.distributed.configuration_utils import DistributedConfig

from toolchain.data.batching import Batch, Rows
from toolchain.distill.capture import Captures, Recorder
from toolchain.distill.extract import Request
from toolchain.distill.mixing import next_of
from toolchain.distill.operators.operator import Patches
from toolchain.distill.positions import positions_of
from toolchain.distill.ranks import gathered, of_all, own_part, place, whole_heads
from toolchain.distill.teachers import Teacher, TrainingModel
from toolchain.models.family import Family
from toolchain.models.loading import load_model
from toolchain.models.outputs import logits_of
from toolchain.scale.cut_blocks import CutBlocks
from toolchain.scale.cuts import cutting_plan
from toolchain.scale.transposed import offer
from toolchain.spec import ModelSpec

__all__ = ["CutModel", "CutTeacher"]

# What attention takes its heads apart by: their number, or what they are wide together.
_COUNTS = {"mpnet": "all_head_size", "gpt2": "split_size", "deberta_v2": "num_attention_heads"}


@dataclass(kw_only=True)
class CutModel:
    """A teacher in a folder, of which every rank reads its part when it is first opened.

    `labels` names the classes of a head that the folder lacks.
    """

    folder: Path
    family: Family
    spec: ModelSpec
    labels: Mapping[int, str] | None = None
    seed: int = 0
    rows: Rows | None = None
    held: dict[bool, PreTrainedModel] = field(default_factory=dict)

    def reading(self, rows: Rows | None) -> "CutModel":
        """Return it with rows of its own; the weights are the same."""
        return replace(self, rows=rows)

    def open(
        self,
        requests: frozenset[Request],
        *,
        device: torch.device,  # noqa: ARG002 - transformers puts each rank's part on its own
        bf16: bool,
    ) -> Teacher:
        """Return it as a teacher that runs beside the student."""
        # A model whose modules were taken is there in fp32, which autocast reads as well.
        model = self._model(bf16=bf16 and False not in self.held)
        return CutTeacher(self, model, requests, bf16=bf16)

    def taken(self, device: torch.device) -> TrainingModel:  # noqa: ARG002
        """Return it as a model in fp32 whose blocks run with the rows of all ranks."""
        model = self._model(bf16=False)
        if getattr(model.config, "use_cache", False):
            # Keys and values of a pass that ends at the first block.
            model.config.use_cache = False
        return TrainingModel(
            model=model,
            family=self.family,
            spec=self.spec,
            rows=self.rows,
            whole=_whole,
            blocks=CutBlocks(model, self.family),
        )

    def _model(self, *, bf16: bool) -> PreTrainedModel:
        if bf16 not in self.held:
            self.held[bf16] = self._loaded(bf16)
        return self.held[bf16]

    def _loaded(self, bf16: bool) -> PreTrainedModel:
        offer()
        plan = cutting_plan(self.spec)
        cut = {"distributed_config": DistributedConfig(tp_size=place()[1], tp_plan=plan)}
        model = load_model(
            self.folder,
            self.spec.task,
            labels=self.labels,
            seed=self.seed,
            dtype=torch.bfloat16 if bf16 else torch.float32,
            cut=cut,
        )
        model.requires_grad_(False)
        _count_own_heads(model, self.family)
        if self.family.score_bias:
            _own_biases(model, self.family)
        return model


class CutTeacher:
    """Runs the cut model on the rows of all ranks: evaluation mode, no gradient, no dropout.

    All ranks ask it at the same time, as often and with patches of the same tensors.
    """

    abreast = True

    def __init__(
        self, teacher: CutModel, model: PreTrainedModel, requests: Iterable[Request], *, bf16: bool
    ) -> None:
        self.spec, self.rows = teacher.spec, teacher.rows
        self._model, self._bf16 = model, bf16
        self._own = (slice(0), slice(0))
        self._recorder = Recorder(model, teacher.family, teacher.spec, requests, self._kept, _whole)
        self._recorder.__enter__()

    def captures(self, batch: Batch, patches: Patches) -> Captures:
        """Return what the model knows of this rank's batch."""
        mask_BN = batch.mask_BN
        self._own = own_part(mask_BN)
        inputs = of_all(batch.inputs, self._model.config.pad_token_id or 0)
        among_all = {request: self._among_all(patch) for request, patch in patches.items()}
        autocast = torch.autocast(mask_BN.device.type, torch.bfloat16, enabled=self._bf16)
        with torch.no_grad(), autocast, self._recorder.patched(among_all):
            logits = self._kept(Request("logits"), logits_of(self._model(**inputs)))
        return self._recorder.take(logits, positions_of(self.spec.task, batch.labels).rows)

    def next_token(
        self, ids_RN: Tensor, mask_RN: Tensor, past: Cache | None
    ) -> tuple[Tensor, Cache]:
        """Return logits (R, V) behind this rank's texts, and what is kept of those of all ranks.

        Texts of all ranks are equally long; see `OnlineTeacher`.
        """
        self._own = own_part(ids_RN)
        autocast = torch.autocast(ids_RN.device.type, torch.bfloat16, enabled=self._bf16)
        with torch.no_grad(), autocast:
            said, kept = next_of(self._model, gathered(ids_RN), gathered(mask_RN), past)
        return said[self._own[0]], kept

    def close(self) -> None:
        """Remove the hooks."""
        self._recorder.__exit__(None, None, None)

    def _kept(self, request: Request | None, tensor: Tensor) -> Tensor:
        """Return this rank's rows, of all heads."""
        rows, tokens = self._own
        if request is None:
            # One row of cosines and sines may stand for all.
            return tensor[rows if len(tensor) > 1 else slice(None), tokens]
        if request.kind in ("q", "k", "v"):
            tensor = whole_heads(tensor)
        # A copy: the rows of all ranks are not kept behind a part of them.
        return (tensor[rows, tokens] if tensor.ndim > 2 else tensor[rows]).clone()

    def _among_all(self, patch: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
        """Return a patch that replaces the rows of all ranks, each rank's by its own."""

        def patched(state_BND: Tensor) -> Tensor:
            return gathered(patch(state_BND[self._own]))

        return patched


def _count_own_heads(model: PreTrainedModel, family: Family) -> None:
    """Let blocks know how many heads they have here, where they do not see it themselves."""
    count = _COUNTS.get(family.name)
    if count is None:
        return
    blocks = model.get_submodule(family.backbone).get_submodule(family.blocks)
    for block in blocks.children():
        attention = block.get_submodule(family.query.rpartition(".")[0])
        setattr(attention, count, getattr(attention, count) // place()[1])


def _own_biases(model: PreTrainedModel, family: Family) -> None:
    """Let MPNet's blocks add the bias of the heads they have here.

    The table of the bias stays whole, and what is read of it too.
    """
    rank, ranks = place()
    encoder: Any = model.get_submodule(f"{family.backbone}.{family.blocks.rpartition('.')[0]}")
    biases: Callable[..., Tensor] = encoder.compute_position_bias

    def own_biases(*args: object, **kwargs: object) -> Tensor:
        return biases(*args, **kwargs).chunk(ranks, dim=1)[rank]

    encoder.compute_position_bias = own_biases


def _whole(parameter: Tensor) -> Tensor:
    return parameter.full_tensor() if isinstance(parameter, DTensor) else parameter
