"""Qwen3: Llama with norms over each head's queries and keys, heads of a width of their own."""

from dataclasses import replace

from toolchain.models.families.llama import FAMILY as LLAMA

__all__ = ["FAMILY"]

FAMILY = replace(
    LLAMA,
    name="qwen3",
    model_types=("qwen3",),
    query_norm="self_attn.q_norm",
    key_norm="self_attn.k_norm",
    parts=replace(LLAMA.parts, head_norms=True),
    switches={
        "qkv_bias": "attention_bias",
        "out_bias": "attention_bias",
        "tied": "tie_word_embeddings",
    },
)
