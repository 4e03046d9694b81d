"""A decoder as one graph for both its uses: reading a prompt, and going on token by token.

Names are those of optimum and transformers.js: `past_key_values.{i}.key` and `.value` go in,
`present.{i}.key` and `.value` come out, all (B, kv_heads, past, head_width) in fp32; a prompt is
read with a past of no token. `attention_mask` covers the past too; `position_ids` are those of the
new tokens.

Shapes: B batch, N new tokens, P past tokens, H key-value heads, K head width.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor
from transformers import DynamicCache, PreTrainedModel

from toolchain.models.family import family_of

__all__ = ["Cache", "Decoder", "cache_of", "decoder_sample"]

_PARTS = ("key", "value")


@dataclass(frozen=True, kw_only=True)
class Cache:
    """The shape of what a decoder remembers of each token."""

    layers: int
    heads: int
    width: int

    @property
    def inputs(self) -> tuple[str, ...]:
        """Names of the inputs that hold it."""
        return tuple(f"past_key_values.{i}.{p}" for i in range(self.layers) for p in _PARTS)

    @property
    def outputs(self) -> tuple[str, ...]:
        """Names of the outputs that hold it, new tokens included."""
        return tuple(f"present.{i}.{p}" for i in range(self.layers) for p in _PARTS)

    @property
    def axes(self) -> dict[str, tuple[str, ...]]:
        """The free axes of the graph's inputs and outputs beside `logits`."""
        rows = ("batch", "sequence")
        total = ("batch", "total_sequence")
        return {
            "input_ids": rows,
            "attention_mask": total,
            "position_ids": rows,
            **dict.fromkeys(self.inputs, ("batch", "", "past_sequence", "")),
            **dict.fromkeys(self.outputs, ("batch", "", "total_sequence", "")),
        }


def cache_of(model: PreTrainedModel) -> Cache:
    """Return the shape of a decoder's cache. Raises UsageError for an unknown family."""
    config: Mapping[str, object] = model.config.to_dict()
    spec = family_of(str(config["model_type"])).spec(config)
    return Cache(layers=spec.layers, heads=spec.kv_heads, width=spec.head_width)


class Decoder(torch.nn.Module):
    """The model as a function of tensors in a fixed order that returns logits and its cache."""

    def __init__(self, model: PreTrainedModel) -> None:
        super().__init__()
        self.model = model

    def forward(
        self, input_ids: Tensor, attention_mask: Tensor, position_ids: Tensor, *past: Tensor
    ) -> tuple[Tensor, ...]:
        """Return logits (B, N, V), then keys and values (B, H, P + N, K) of each layer.

        `input_ids` and `position_ids` are (B, N), `attention_mask` (B, P + N), `past` (B, H, P, K).
        """
        cache = DynamicCache(list(zip(past[::2], past[1::2], strict=True)))
        outputs = self.model(
            input_ids=input_ids,
            attention_mask=attention_mask,
            position_ids=position_ids,
            past_key_values=cache,
            use_cache=True,
            return_dict=True,
        )
        grown = outputs.past_key_values.layers
        return (outputs.logits, *(part for layer in grown for part in (layer.keys, layer.values)))


def decoder_sample(cache: Cache, vocab: int) -> tuple[Tensor, ...]:
    """Return inputs to trace with: two rows of three tokens behind five, one of them padded."""
    rows, new, before = 2, 3, 5
    mask = torch.ones(rows, before + new, dtype=torch.int64)
    mask[1, 0] = 0
    ids = torch.arange(rows * new).reshape(rows, new) % vocab
    positions = (mask.cumsum(1) - 1).clamp(min=0)[:, before:]
    past = (torch.randn(rows, cache.heads, before, cache.width) for _ in cache.inputs)
    return ids, mask, positions, *past
