"""Llama: pre-norm decoder with rotary positions, grouped queries and a gated feed-forward."""

from toolchain.models.family import Family, Head
from toolchain.spec import Parts

__all__ = ["FAMILY"]

FAMILY = Family(
    name="llama",
    model_types=("llama",),
    backbone="model",
    tokens="embed_tokens",
    blocks="layers",
    query="self_attn.q_proj",
    key="self_attn.k_proj",
    value="self_attn.v_proj",
    rotary="rotary_emb",
    causal=True,
    pools="last",
    heads={
        "classify": Head(("score.weight",), "score"),
        "tag": Head(("score.weight", "score.bias"), "score"),
        "causal_lm": Head(("lm_head.",), "lm_head"),
    },
    keys={
        "layers": "num_hidden_layers",
        "width": "hidden_size",
        "heads": "num_attention_heads",
        "kv_heads": "num_key_value_heads",
        "head_width": "head_dim",
        "ffn": "intermediate_size",
        "vocab": "vocab_size",
        "max_tokens": "max_position_embeddings",
    },
    parts=Parts(
        qkv_bias=False,
        out_bias=False,
        ffn_bias=False,
        ffn_gated=True,
        norm_bias=False,
        free_heads=True,
        embedding_norm=False,
        final_norm=True,
        learned_positions=False,
        head_dense=False,
        head_bias=False,
        pooler=False,
        tied=False,
        dropout=False,
        attention_dropout=False,
        ffn_kept=4,
    ),
    switches={
        "qkv_bias": "attention_bias",
        "out_bias": "attention_bias",
        "ffn_bias": "mlp_bias",
        "tied": "tie_word_embeddings",
    },
    dropouts={"attention_dropout": "attention_dropout"},
)
