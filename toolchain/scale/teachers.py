"""Teachers in pieces over processes: each rank owns one part of the weights, and all compute.

Every rank runs the whole teacher on its own rows, with weights gathered module by module (ZeRO-3).
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal

import torch
from transformers import PreTrainedModel
from transformers.integrations.deepspeed import HfDeepSpeedConfig

from toolchain.data.batching import Rows
from toolchain.distill.extract import Request
from toolchain.distill.teachers import OnlineTeacher, Teacher, TrainingModel
from toolchain.models.family import Family
from toolchain.models.loading import load_model
from toolchain.scale.pieces import gathering, passes_in_any_order, whole
from toolchain.scale.ready import import_deepspeed
from toolchain.spec import ModelSpec

__all__ = ["ShardedTeacher"]


@dataclass(kw_only=True)
class ShardedTeacher:
    """A teacher in a folder, read in pieces when it is first opened; later stages find it there.

    `labels` names the classes of a head that the folder lacks.
    """

    folder: Path
    family: Family
    spec: ModelSpec
    placement: Literal["zero3", "offload"]
    labels: Mapping[int, str] | None = None
    seed: int = 0
    rows: Rows | None = None
    held: dict[bool, PreTrainedModel] = field(default_factory=dict)

    def reading(self, rows: Rows | None) -> "ShardedTeacher":
        """Return it with rows of its own; the weights are the same."""
        return replace(self, rows=rows)

    def open(self, requests: frozenset[Request], *, device: torch.device, bf16: bool) -> Teacher:
        """Return it as a teacher that runs beside the student."""
        # A model whose modules were taken is there in fp32, which autocast reads as well.
        model = self._model(device, bf16=bf16 and False not in self.held)
        return OnlineTeacher(model, requests, device=device, bf16=bf16, placed=True)

    def taken(self, device: torch.device) -> TrainingModel:
        """Return it as a model in fp32 whose modules may run, and be gone back through, alone."""
        return self._model(device, bf16=False)

    def _model(self, device: torch.device, *, bf16: bool) -> TrainingModel:
        if bf16 not in self.held:
            self.held[bf16] = self._loaded(device, bf16)
        return TrainingModel(
            model=self.held[bf16],
            family=self.family,
            spec=self.spec,
            rows=self.rows,
            whole=partial(whole, device=device),
        )

    def _loaded(self, device: torch.device, bf16: bool) -> PreTrainedModel:
        deepspeed = import_deepspeed(device)
        config = _config(self.spec.params(), bf16=bf16, offload=self.placement == "offload")
        # While this object lives, from_pretrained keeps of each tensor it reads this rank's part.
        cutting = HfDeepSpeedConfig(config)
        model = load_model(
            self.folder,
            self.spec.task,
            labels=self.labels,
            seed=self.seed,
            dtype=torch.bfloat16 if bf16 else torch.float32,
        )
        del cutting
        engine, *_ = deepspeed.initialize(
            model=model.eval().requires_grad_(False), config=config, dist_init_required=False
        )
        passes_in_any_order(model, engine.optimizer)
        return model


def _config(elements: int, *, bf16: bool, offload: bool) -> dict[str, Any]:
    """Return DeepSpeed's settings for a model that only answers."""
    zero: dict[str, Any] = {"stage": 3, **gathering(elements)}
    if offload:
        zero["offload_param"] = {"device": "cpu"}
    return {
        "train_micro_batch_size_per_gpu": 1,
        "steps_per_print": 1 << 60,
        "bf16": {"enabled": bf16},
        "zero_optimization": zero,
    }
