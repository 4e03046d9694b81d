"""MobileBERT: thin blocks with bottlenecks between wide sums; embeddings of three neighbours."""

from collections.abc import Mapping
from dataclasses import replace

from toolchain.models.families.bert import FAMILY as BERT
from toolchain.models.family import Head
from toolchain.spec import Parts

__all__ = ["FAMILY"]

# The configuration's own default.
_STACK = 4


def _stack(parts: Parts, config: Mapping[str, object]) -> Parts:
    count = config.get("num_feedforward_networks", _STACK)
    return replace(parts, ffn_stack=count) if isinstance(count, int) else parts


FAMILY = replace(
    BERT,
    name="mobilebert",
    model_types=("mobilebert",),
    backbone="mobilebert",
    # Half a block's sum stands inside a bottleneck: it cannot be cut like BERT's.
    out=None,
    ffn=None,
    layout="",
    heads={
        "classify": Head(("mobilebert.pooler.", "classifier."), "classifier"),
        "tag": Head(("classifier.",), "classifier"),
        "qa": Head(("qa_outputs.",), "qa_outputs"),
        # Its logits come from two matrices side by side.
        "mask_lm": Head(("cls.predictions.transform.", "cls.predictions.dense."), ""),
    },
    keys={**BERT.keys, "embedding_width": "embedding_size"},
    inner="intra_bottleneck_size",
    repeated={"intra_bottleneck_size": "query_width", "true_hidden_size": "query_width"},
    parts=Parts(bottleneck=True, ffn_stack=_STACK, free_heads=True, dropout=False, ffn_kept=1),
    adjust=_stack,
    expects={
        "use_bottleneck": (True,),
        "use_bottleneck_attention": (False,),
        "key_query_shared_bottleneck": (True,),
        "trigram_input": (True,),
        "classifier_activation": (True,),
    },
)
