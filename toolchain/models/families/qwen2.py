"""Qwen2 and Qwen2.5: Llama with biases on queries, keys and values."""

from dataclasses import replace

from toolchain.models.families.llama import FAMILY as LLAMA

__all__ = ["FAMILY"]

FAMILY = replace(
    LLAMA,
    name="qwen2",
    model_types=("qwen2",),
    parts=replace(LLAMA.parts, qkv_bias=True),
    switches={"tied": "tie_word_embeddings"},
)
