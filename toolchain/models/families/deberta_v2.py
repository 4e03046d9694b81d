"""DeBERTa-v2 and v3: attention between content and relative positions, beside content alone."""

from collections.abc import Mapping
from dataclasses import replace

from toolchain.models.family import Family, Head
from toolchain.spec import Parts

__all__ = ["FAMILY"]


def _positions(parts: Parts, config: Mapping[str, object]) -> Parts:
    absolute = config.get("position_biased_input", True) is not False
    norm = "layer_norm" in str(config.get("norm_rel_ebd", "none"))
    parts = replace(parts, learned_positions=absolute, relative_norm=norm)
    if not config.get("relative_attention"):
        return parts
    kinds = config.get("pos_att_type") or ()
    shared = bool(config.get("share_att_key"))
    own = 0 if shared else sum(kind in str(kinds) for kind in ("c2p", "p2c"))
    return replace(parts, relative_rows=2 * _span(config), relative_projections=own)


def _span(config: Mapping[str, object]) -> int:
    """Return how many distances to one side have a row of their own."""
    for key in ("position_buckets", "max_relative_positions", "max_position_embeddings"):
        value = config.get(key)
        if isinstance(value, int) and value > 0:
            return value
    return 0


FAMILY = Family(
    name="deberta_v2",
    model_types=("deberta-v2",),
    backbone="deberta",
    tokens="embeddings.word_embeddings",
    blocks="encoder.layer",
    query="attention.self.query_proj",
    key="attention.self.key_proj",
    value="attention.self.value_proj",
    heads={
        "classify": Head(("pooler.dense.", "classifier."), "classifier"),
        "tag": Head(("classifier.",), "classifier"),
        "qa": Head(("qa_outputs.",), "qa_outputs"),
        "mask_lm": Head(("cls.predictions.transform.",), "cls.predictions.decoder"),
    },
    keys={
        "layers": "num_hidden_layers",
        "width": "hidden_size",
        "heads": "num_attention_heads",
        "ffn": "intermediate_size",
        "vocab": "vocab_size",
        "max_tokens": "max_position_embeddings",
        "token_types": "type_vocab_size",
        "head_width": "attention_head_size",
        "embedding_width": "embedding_size",
    },
    repeated={"pooler_hidden_size": "width"},
    parts=Parts(pooler=False, embedding_norm_last=True, fused_attention=False),
    switches={"tied": "tie_word_embeddings"},
    dropouts={
        "dropout": "hidden_dropout_prob",
        "attention_dropout": "attention_probs_dropout_prob",
    },
    adjust=_positions,
    # The convolution of the largest v2 models stands after the first block, outside any block.
    expects={"conv_kernel_size": (0,)},
    unsupported={
        "attn_scores": "its scores add terms of content and position that share the projections, "
        "so queries times keys are not what the softmax reads"
    },
)
