"""Another head on the same body: a student of one task learns a language model in between."""

import copy
from dataclasses import replace

import torch
from transformers import AutoModelForCausalLM, AutoModelForMaskedLM, PreTrainedModel

from toolchain.models.family import Family
from toolchain.models.loading import quiet
from toolchain.spec import ModelSpec, Task

__all__ = ["with_language_head"]

_CLASSES = {"mask_lm": AutoModelForMaskedLM, "causal_lm": AutoModelForCausalLM}


def with_language_head(
    model: PreTrainedModel,
    family: Family,
    spec: ModelSpec,
    task: Task,
    *,
    source: PreTrainedModel | None,
    seed: int,
) -> tuple[PreTrainedModel, ModelSpec]:
    """Return a language model that shares the body of `model`, and its shape.

    Training it trains the body in place. The head's parameters are those of `source` where their
    shapes agree, else new, drawn with `seed`; the matrix tied to the token embeddings follows them.
    """
    quiet()
    torch.manual_seed(seed)
    built: PreTrainedModel = _CLASSES[task].from_config(
        copy.deepcopy(model.config), dtype=torch.float32
    )
    own = dict(built.named_parameters())
    prefixes = family.head(task).parameters
    if source is not None:
        with torch.no_grad():
            for name, value in source.named_parameters():
                if name.startswith(prefixes) and name in own and own[name].shape == value.shape:
                    own[name].copy_(value)
    setattr(built, family.backbone, getattr(model, family.backbone))
    built.tie_weights()
    built.eval()
    return built, replace(spec, task=task, num_labels=0)
