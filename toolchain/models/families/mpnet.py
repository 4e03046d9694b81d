"""MPNet: RoBERTa's ends around blocks whose attention scores get a bias from distance."""

from collections.abc import Mapping
from dataclasses import replace

from toolchain.models.family import Family, Head
from toolchain.spec import Parts

__all__ = ["FAMILY"]

# The model computes with 32 buckets, however many rows the table has.
_BUCKETS = 32


def _buckets(parts: Parts, config: Mapping[str, object]) -> Parts:
    rows = config.get("relative_attention_num_buckets", _BUCKETS)
    return replace(parts, bias_buckets=rows) if isinstance(rows, int) else parts


FAMILY = Family(
    name="mpnet",
    model_types=("mpnet",),
    backbone="mpnet",
    tokens="embeddings.word_embeddings",
    blocks="encoder.layer",
    query="attention.attn.q",
    key="attention.attn.k",
    value="attention.attn.v",
    score_bias="encoder.relative_attention_bias",
    heads={
        "classify": Head(("classifier.dense.", "classifier.out_proj."), "classifier.out_proj"),
        "tag": Head(("classifier.weight", "classifier.bias"), "classifier"),
        "qa": Head(("qa_outputs.",), "qa_outputs"),
        "mask_lm": Head(("lm_head.dense.", "lm_head.layer_norm."), "lm_head.decoder"),
    },
    keys={
        "layers": "num_hidden_layers",
        "width": "hidden_size",
        "heads": "num_attention_heads",
        "ffn": "intermediate_size",
        "vocab": "vocab_size",
        "max_tokens": "max_position_embeddings",
    },
    # Positions are counted from 2, whatever the padding id.
    parts=Parts(position_offset=2, bias_buckets=_BUCKETS, fused_attention=False),
    switches={"tied": "tie_word_embeddings"},
    dropouts={
        "dropout": "hidden_dropout_prob",
        "attention_dropout": "attention_probs_dropout_prob",
    },
    adjust=_buckets,
)
