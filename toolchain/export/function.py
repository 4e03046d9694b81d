"""A model as tracers want it: a function of tensors in a fixed order that returns tensors alone.

Shape letters: B batch, N tokens, C outcomes.
"""

import contextlib
import inspect
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor
from transformers import PreTrainedModel

from toolchain.models.family import family_of
from toolchain.models.first_token import first_token_alone
from toolchain.models.found import declared_task

__all__ = ["Function", "input_names", "shortened"]


def input_names(model: PreTrainedModel) -> tuple[str, ...]:
    """Return what a model without a cache reads, in the order of every exported file."""
    types = "token_type_ids" in inspect.signature(model.forward).parameters
    # RoBERTa-like models take token types but know only one.
    types = types and getattr(model.config, "type_vocab_size", 1) > 1
    return ("input_ids", "attention_mask", *(("token_type_ids",) if types else ()))


@contextmanager
def shortened(model: PreTrainedModel) -> Iterator[None]:
    """Compute no more of the last block than the head reads, where that is known."""
    family = family_of(str(model.config.model_type))
    task = declared_task({"architectures": [type(model).__name__]})
    alone = family.reads_first_token(task)
    with first_token_alone(model, family) if alone else contextlib.nullcontext():
        yield


class Function(torch.nn.Module):
    """A model that takes the inputs `names` in their order and returns what `outputs` names.

    The one output of a model that gives one is its `logits`, whatever the file calls it.
    """

    def __init__(
        self, model: PreTrainedModel, names: tuple[str, ...], outputs: tuple[str, ...]
    ) -> None:
        super().__init__()
        self.model = model
        self.names = names
        self.several = outputs if len(outputs) > 1 else ()

    def forward(self, *values: Tensor) -> Tensor | tuple[Tensor, ...]:
        """Return the logits (B, C) or (B, N, C) for int64 inputs (B, N) in the order of `names`.

        Of a model for questions where an answer begins and where it ends, (B, N) each.
        """
        found = self.model(**dict(zip(self.names, values, strict=True)), return_dict=True)
        if self.several:
            return tuple(found[name] for name in self.several)
        logits: Tensor = found.logits
        return logits
