"""DistilBERT: BERT without token types and pooler, under names of its own."""

from toolchain.models.family import Family, Head
from toolchain.spec import Parts

__all__ = ["FAMILY"]

FAMILY = Family(
    name="distilbert",
    model_types=("distilbert",),
    backbone="distilbert",
    tokens="embeddings.word_embeddings",
    blocks="transformer.layer",
    query="attention.q_lin",
    key="attention.k_lin",
    value="attention.v_lin",
    out="attention.out_lin",
    ffn=("ffn.lin1", "ffn.lin2"),
    layout="distilbert",
    heads={
        "classify": Head(("pre_classifier.", "classifier."), "classifier"),
        "tag": Head(("classifier.",), "classifier"),
        "qa": Head(("qa_outputs.",), "qa_outputs"),
        "mask_lm": Head(("vocab_transform.", "vocab_layer_norm."), "vocab_projector"),
    },
    keys={
        "layers": "n_layers",
        "width": "dim",
        "heads": "n_heads",
        "ffn": "hidden_dim",
        "vocab": "vocab_size",
        "max_tokens": "max_position_embeddings",
    },
    parts=Parts(pooler=False),
    switches={"tied": "tie_word_embeddings"},
    dropouts={"dropout": "dropout", "attention_dropout": "attention_dropout"},
)
