"""RoBERTa and XLM-R: BERT whose positions are counted from behind the padding id."""

from collections.abc import Mapping
from dataclasses import replace

from toolchain.models.families.bert import FAMILY as BERT
from toolchain.models.family import Head
from toolchain.spec import Parts

__all__ = ["FAMILY"]


def _offset(parts: Parts, config: Mapping[str, object]) -> Parts:
    padding = config.get("pad_token_id", 1)
    return replace(parts, position_offset=padding + 1) if isinstance(padding, int) else parts


FAMILY = replace(
    BERT,
    name="roberta",
    model_types=("roberta", "xlm-roberta"),
    backbone="roberta",
    heads={
        "classify": Head(("classifier.dense.", "classifier.out_proj."), "classifier.out_proj"),
        "tag": Head(("classifier.weight", "classifier.bias"), "classifier"),
        "qa": Head(("qa_outputs.",), "qa_outputs"),
        "mask_lm": Head(("lm_head.dense.", "lm_head.layer_norm."), "lm_head.decoder"),
    },
    adjust=_offset,
)
