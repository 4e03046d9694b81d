"""BERT: post-norm encoder with a pooler on the first token."""

from toolchain.models.family import Family

__all__ = ["FAMILY"]

FAMILY = Family(
    name="bert",
    model_types=("bert",),
    backbone="bert",
    embeddings="embeddings",
    blocks="encoder.layer",
    query="attention.self.query",
    key="attention.self.key",
    value="attention.self.value",
    pooler="bert.pooler.",
    head="classifier.",
    keys={
        "layers": "num_hidden_layers",
        "width": "hidden_size",
        "heads": "num_attention_heads",
        "ffn": "intermediate_size",
        "vocab": "vocab_size",
        "max_tokens": "max_position_embeddings",
        "token_types": "type_vocab_size",
    },
)
