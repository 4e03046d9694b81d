"""ELECTRA: BERT with narrow embeddings and a dense layer instead of the pooler."""

from dataclasses import replace

from toolchain.models.families.bert import FAMILY as BERT
from toolchain.models.family import Head
from toolchain.spec import Parts

__all__ = ["FAMILY"]

FAMILY = replace(
    BERT,
    name="electra",
    model_types=("electra",),
    backbone="electra",
    heads={
        "classify": Head(("classifier.dense.", "classifier.out_proj."), "classifier.out_proj"),
        "tag": Head(("classifier.weight", "classifier.bias"), "classifier"),
        "qa": Head(("qa_outputs.",), "qa_outputs"),
        "mask_lm": Head(("generator_predictions.",), "generator_lm_head"),
    },
    keys={**BERT.keys, "embedding_width": "embedding_size"},
    parts=Parts(pooler=False),
)
