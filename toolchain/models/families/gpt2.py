"""GPT-2: pre-norm decoder with learned positions and one projection for queries, keys, values."""

from toolchain.models.family import Family, Head
from toolchain.spec import Parts

__all__ = ["FAMILY"]

FAMILY = Family(
    name="gpt2",
    model_types=("gpt2",),
    backbone="transformer",
    tokens="wte",
    blocks="h",
    query="attn.c_attn",
    key="attn.c_attn",
    value="attn.c_attn",
    fused=True,
    causal=True,
    pools="last",
    heads={
        "classify": Head(("score.",), "score"),
        "tag": Head(("classifier.",), "classifier"),
        "causal_lm": Head(("lm_head.",), "lm_head"),
    },
    keys={
        "layers": "n_layer",
        "width": "n_embd",
        "heads": "n_head",
        "ffn": "n_inner",
        "vocab": "vocab_size",
        "max_tokens": "n_positions",
    },
    ffn_ratio=4,
    parts=Parts(
        embedding_norm=False,
        final_norm=True,
        head_dense=False,
        head_bias=False,
        pooler=False,
        ffn_kept=5,
    ),
    switches={"tied": "tie_word_embeddings"},
    dropouts={"dropout": "resid_pdrop", "attention_dropout": "attn_pdrop"},
    expects={
        "add_cross_attention": (False,),
        "scale_attn_weights": (True,),
        "scale_attn_by_inverse_layer_idx": (False,),
    },
)
