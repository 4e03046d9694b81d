"""BERT: post-norm encoder with a pooler on the first token."""

from toolchain.models.family import Family, Head

__all__ = ["FAMILY"]

FAMILY = Family(
    name="bert",
    model_types=("bert",),
    backbone="bert",
    tokens="embeddings.word_embeddings",
    blocks="encoder.layer",
    query="attention.self.query",
    key="attention.self.key",
    value="attention.self.value",
    out="attention.output.dense",
    ffn=("intermediate.dense", "output.dense"),
    layout="bert",
    heads={
        "classify": Head(("bert.pooler.", "classifier."), "classifier"),
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
    },
    switches={"tied": "tie_word_embeddings"},
    dropouts={
        "dropout": "hidden_dropout_prob",
        "attention_dropout": "attention_probs_dropout_prob",
    },
    expects={
        "is_decoder": (False,),
        "add_cross_attention": (False,),
        "position_embedding_type": ("absolute",),
    },
)
