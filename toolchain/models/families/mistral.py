"""Mistral: Llama without any bias, attention limited to a window of recent tokens."""

from dataclasses import replace

from toolchain.models.families.llama import FAMILY as LLAMA

__all__ = ["FAMILY"]

FAMILY = replace(
    LLAMA,
    name="mistral",
    model_types=("mistral",),
    switches={"tied": "tie_word_embeddings"},
)
